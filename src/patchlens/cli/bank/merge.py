"""`patchlens bank merge`: several banks as one."""

from pathlib import Path
from typing import Annotated

import typer

from patchlens.cli.bank.info import describe
from patchlens.cli.options import Json, Overwrite
from patchlens.cli.terminal import progress, say_json

__all__ = ["merge"]


def merge(
    banks: Annotated[
        list[str], typer.Argument(metavar="BANK…", help="Two or more banks, by folder or name.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to make.")],
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Join banks of one model into one, by the rule that they were built by.

    A context that several hold is kept once, and each token keeps at most as many contexts as in each of them; earlier
    banks come first. No model is run.
    """
    from patchlens.bank.merge import merge_banks

    with progress() as report:
        bank = merge_banks(banks, out, overwrite=overwrite, report=report)
    if json:
        say_json(bank.info())
    else:
        describe(bank.info())
