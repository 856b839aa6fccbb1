"""`patchlens bank push`: a bank to the Hub."""

from typing import Annotated

import typer

from patchlens.cli.options import BankName, Json
from patchlens.cli.terminal import progress, say, say_json

__all__ = ["push"]


def push(
    bank: BankName,
    repo: Annotated[str, typer.Argument(metavar="REPO", help="owner/name on the Hub.", show_default=False)],
    layers: Annotated[str, typer.Option(metavar="LAYERS", help="all, or some of the bank's, such as 1,8.")] = "all",
    public: Annotated[
        bool, typer.Option("--public", metavar="", help="Let everyone see a new repository. An old one stays as it is.")
    ] = False,
    revision: Annotated[str | None, typer.Option(metavar="BRANCH", help="The branch; main if left out.")] = None,
    no_card: Annotated[
        bool, typer.Option("--no-card", metavar="", help="Leave the repository's README.md as it is.")
    ] = False,
    json: Json = False,
) -> None:
    """Put a bank, or some of its layers, on the Hub as a data set, with a card.

    Needs a token that may write, from HF_TOKEN or 'hf auth login'. An interrupted upload goes on when the same command
    is given again.
    """
    from patchlens.bank.hub import push_bank

    with progress() as report:
        address = push_bank(
            bank, repo, layers=layers, private=not public, revision=revision, card=not no_card, report=report
        )
    if json:
        say_json({"url": address})
    else:
        say(address)
