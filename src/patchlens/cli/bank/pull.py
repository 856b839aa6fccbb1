"""`patchlens bank pull`: a bank from the Hub."""

from pathlib import Path
from typing import Annotated

import typer

from patchlens.cli.bank.info import describe
from patchlens.cli.options import Json, Overwrite
from patchlens.cli.terminal import progress, say_json

__all__ = ["pull"]


def pull(
    repo: Annotated[str, typer.Argument(metavar="REPO", help="owner/name on the Hub.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder to make; the cache if left out.")
    ] = None,
    layers: Annotated[
        str, typer.Option(metavar="LAYERS", help="all, or some of the bank's, such as 1,8. Only they are downloaded.")
    ] = "all",
    revision: Annotated[str | None, typer.Option(metavar="REV", help="Branch, tag or commit.")] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Get a bank, or some of its layers, from the Hub.

    Every file is compared with the hash that the bank records. An interrupted download goes on when the same command is
    given again.
    """
    from patchlens.bank.hub import pull_bank

    with progress() as report:
        bank = pull_bank(repo, out, layers=layers, revision=revision, overwrite=overwrite, report=report)
    if json:
        say_json(bank.info())
    else:
        describe(bank.info())
