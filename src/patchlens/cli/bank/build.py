"""`patchlens bank build`: from a corpus and a model to a bank."""

import time
from pathlib import Path
from typing import Annotated

import typer

from patchlens.cli.bank.info import describe
from patchlens.cli.options import DeviceMap, Dtype, Json, Model, Overwrite, Revision, TrustRemoteCode
from patchlens.cli.terminal import progress, say_json

__all__ = ["build"]


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
    describe(bank.info())
