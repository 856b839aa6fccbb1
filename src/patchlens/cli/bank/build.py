"""`patchlens bank build`: from a corpus and a model to a bank."""

import time
from pathlib import Path
from typing import Annotated

import typer

from patchlens.cli.bank.info import describe
from patchlens.cli.options import DeviceMap, Dtype, Json, Model, Overwrite, Revision, TrustRemoteCode
from patchlens.cli.terminal import complain, progress, say_json

__all__ = ["BankDtype", "Choose", "Column", "Corpus", "Layers", "PerToken", "Seed", "SkipPositions", "Strict", "Words"]
__all__ += ["build"]

_CORPUS = "How the corpus is read"
_WORK = "How the work is shared"

Corpus = Annotated[
    str,
    typer.Option(
        "--corpus",
        "-c",
        metavar="FILE",
        help="Sentences: a text, CSV, TSV, JSON lines or Parquet file, also .gz or .zst; a URL; hf:owner/name, a data "
        "set of the Hub; - for standard input.",
    ),
]
Layers = Annotated[
    str,
    typer.Option(
        metavar="LAYERS", help="auto (those of the paper that the model has), all, or numbers such as 1,4,8-12."
    ),
]
PerToken = Annotated[int, typer.Option(metavar="N", help="Contexts kept per token, at most.")]
Choose = Annotated[
    str,
    typer.Option(
        metavar="RULE",
        help="Which of them: spread (the most different for the least work), reservoir (a uniform choice by the seed) "
        "or first (of the corpus).",
    ),
]
Words = Annotated[str, typer.Option(metavar="WHICH", help="all tokens, or final: those that end a word.")]
SkipPositions = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Positions left out at the start of a sentence, special tokens counted. The first always is."
    ),
]
BankDtype = Annotated[
    str,
    typer.Option(
        "--dtype", metavar="TYPE", help="How vectors are stored: float16, bfloat16, float32, int8 or float8_e4m3fn."
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", help="Seed of the choice.")]
Column = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Column with the sentences; a number for a CSV without a header.",
        rich_help_panel=_CORPUS,
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict", metavar="", help="Refuse lines that cannot be used, not count them.", rich_help_panel=_CORPUS
    ),
]


def build(
    model: Model,
    corpus: Corpus,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to make.")],
    layers: Layers = "auto",
    per_token: PerToken = 20,
    choose: Choose = "spread",
    words: Words = "all",
    skip_positions: SkipPositions = None,
    bank_dtype: BankDtype = "float16",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    column: Column = None,
    strict: Strict = False,
    workers: Annotated[
        int,
        typer.Option(
            metavar="N", help="Processes, one a GPU where there are several, or Ray actors.", rich_help_panel=_WORK
        ),
    ] = 1,
    launcher: Annotated[
        str,
        typer.Option(
            metavar="WHAT",
            help="processes on this machine, or ray: a cluster. torchrun and srun need neither.",
            rich_help_panel=_WORK,
        ),
    ] = "processes",
    revision: Revision = None,
    compute_dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Build a bank: contextual embeddings of a corpus's tokens.

    The model runs over the corpus once. A build that is interrupted, killed or out of disk space goes on when the same
    command is given again.
    """
    began = time.monotonic()
    from patchlens.bank.build import build_bank
    from patchlens.bank.plan import Selection
    from patchlens.bank.workers import own_device, team
    from patchlens.inputs.corpus import read_corpus
    from patchlens.models.loading import load_model

    Selection(per_token, choose, words, skip_positions, seed)  # refuses before the model is loaded
    sentences = read_corpus(corpus, column=column, strict=strict)
    with progress() as report:
        report("Loading the model", 0, 1)
        loaded = load_model(
            model,
            revision=revision,
            dtype=compute_dtype,
            device_map=own_device(device_map),
            trust_remote_code=trust_remote_code,
        )
        report("Loading the model", 1, 1)
        bank = build_bank(
            loaded,
            sentences,
            out,
            layers=layers,
            per_token=per_token,
            choose=choose,
            words=words,
            skip_positions=skip_positions,
            dtype=bank_dtype,
            workers=workers,
            launcher=launcher,
            seed=seed,
            overwrite=overwrite,
            report=report,
        )
    others = team()
    if others is not None and others.rank > 0:
        return  # the first one says it for all
    if skipped := sentences.describe_skipped():
        complain(skipped)
    if json:
        say_json({**bank.info(), "folder": str(bank.folder.resolve()), "seconds": round(time.monotonic() - began, 3)})
        return
    describe(bank.info())
