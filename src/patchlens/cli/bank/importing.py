"""`patchlens bank import`: from the reference package's folders to a bank."""

from pathlib import Path
from typing import Annotated

import typer

from patchlens.cli.bank.build import BankDtype
from patchlens.cli.bank.info import describe
from patchlens.cli.options import Json, Overwrite, Revision, TrustRemoteCode
from patchlens.cli.terminal import progress, say_json

__all__ = ["import_"]


def import_(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="What latentlens wrote: it holds layer_N/embeddings_cache.pt.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to make.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="The model that it was made with: places each token exactly, and lets the bank know its model.",
        ),
    ] = None,
    layers: Annotated[str, typer.Option(metavar="LAYERS", help="all, or some of the folder's, such as 1,8.")] = "all",
    bank_dtype: BankDtype = "float16",
    overwrite: Overwrite = False,
    json: Json = False,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Make a bank of a folder of the package latentlens, or of the paper's pipeline.

    The folder's files are pickles. They are read without running anything in them, and checked. Signs of damage by
    padding on the left are told.
    """
    from patchlens.bank.importing import import_bank
    from patchlens.models.loading import load_model

    with progress() as report:
        loaded = None
        if model is not None:
            report("Loading the model", 0, 1)
            loaded = load_model(model, revision=revision, trust_remote_code=trust_remote_code)
            report("Loading the model", 1, 1)
        bank = import_bank(
            folder, out, model=loaded, layers=layers, dtype=bank_dtype, overwrite=overwrite, report=report
        )
    if json:
        say_json(bank.info())
    else:
        describe(bank.info())
