"""`patchlens bank`: build, describe and check banks."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from patchlens.cli.options import DeviceMap, Dtype, Json, Model, Overwrite, Revision, TrustRemoteCode
from patchlens.cli.terminal import draw, progress, say, say_json

__all__ = ["app", "build", "info", "verify"]

app = typer.Typer(
    help="Build, describe and check banks of contextual embeddings.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

_Bank = Annotated[
    str, typer.Argument(metavar="BANK", help="A bank folder, or the name of an embedded model.", show_default=False)
]


@app.command()
def build(
    model: Model,
    corpus: Annotated[
        str,
        typer.Option("--corpus", "-c", metavar="FILE", help="UTF-8 text, one sentence a line; - for standard input."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to make.")],
    layers: Annotated[
        str,
        typer.Option(
            metavar="LAYERS", help="auto (those of the paper that the model has), all, or numbers such as 1,4,8-12."
        ),
    ] = "auto",
    per_token: Annotated[int, typer.Option(metavar="N", help="Contexts kept per token, at most.")] = 20,
    choose: Annotated[
        str,
        typer.Option(
            metavar="RULE", help="Which of them: reservoir (a uniform choice by the seed) or first (of the corpus)."
        ),
    ] = "reservoir",
    words: Annotated[str, typer.Option(metavar="WHICH", help="all tokens, or final: those that end a word.")] = "all",
    skip_positions: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Positions left out at the start of a sentence, special tokens counted. The first always is.",
        ),
    ] = None,
    bank_dtype: Annotated[
        str, typer.Option("--dtype", metavar="TYPE", help="How vectors are stored: float16, bfloat16 or float32.")
    ] = "float16",
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the reservoir.")] = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    revision: Revision = None,
    compute_dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Build a bank: contextual embeddings of a corpus's tokens.

    The model runs over the corpus once. If it is interrupted, nothing is left at DIR.
    """
    began = time.monotonic()
    from patchlens.bank.build import build_bank
    from patchlens.bank.plan import Selection
    from patchlens.models.loading import load_model

    Selection(per_token, choose, words, skip_positions, seed)  # refuses before the model is loaded
    with progress() as report:
        report("Loading the model", 0, 1)
        loaded = load_model(
            model,
            revision=revision,
            dtype=compute_dtype,
            device_map=device_map,
            trust_remote_code=trust_remote_code,
        )
        report("Loading the model", 1, 1)
        bank = build_bank(
            loaded,
            "/dev/stdin" if corpus == "-" else corpus,
            out,
            layers=layers,
            per_token=per_token,
            choose=choose,
            words=words,
            skip_positions=skip_positions,
            dtype=bank_dtype,
            seed=seed,
            overwrite=overwrite,
            report=report,
        )
    if json:
        say_json({**bank.info(), "folder": str(bank.folder.resolve()), "seconds": round(time.monotonic() - began, 3)})
        return
    _describe(bank.info())


@app.command()
def info(bank: _Bank, json: Json = False) -> None:
    """Say what a bank holds and how it was made."""
    described = _open(bank).info()
    if json:
        say_json(described)
    else:
        _describe(described)


@app.command()
def verify(bank: _Bank) -> None:
    """Read a whole bank and check every hash, count and vector."""
    from patchlens.bank.bank import open_bank

    with progress() as report:
        opened = open_bank(bank, report=report)
        opened.verify(report)
    say(f"{opened.folder}: whole. {len(opened):,} contexts at {len(opened.layers)} layers, all hashes as recorded.")


def _open(bank: str) -> Any:
    from patchlens.bank.bank import open_bank

    with progress() as report:
        return open_bank(bank, report=report)


def _describe(about: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from patchlens.lenses.summary import printable

    settings, corpus = about["settings"], about["corpus"]
    rows = {
        "bank": about["folder"],
        "size": f"{about['bytes'] / 1e6:,.1f} MB, format version {about['format_version']}",
        "contexts": f"{about['rows']:,} of {about['words']:,} words in {about['sentences']:,} sentences",
        "vectors": f"layers {', '.join(map(str, about['layers']))}; {about['d_model']} × {about['dtype']}",
        "model": about["model"] + (f" at {about['revision']}" if about["revision"] else ""),
        "weights": about["fingerprint"],
        "tokenizer": about["tokenizer"],
        "corpus": f"{corpus['sentences']:,} sentences, {corpus['tokens']:,} tokens, {corpus['prefixes']:,} prefixes",
        "chosen": f"{settings['choose']}, at most {settings['per_token']} per token, words {settings['words']}, "
        f"seed {settings['seed']}",
        "made with": ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(printable(value)))
    draw(table)
