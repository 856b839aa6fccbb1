"""`patchlens bank`: what is done with banks, one file per verb."""

import typer

from patchlens.cli.bank.build import build
from patchlens.cli.bank.info import info
from patchlens.cli.bank.verify import verify

__all__ = ["app"]

app = typer.Typer(
    help="Build, describe and check banks of contextual embeddings.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
app.command("build")(build)
app.command("info")(info)
app.command("verify")(verify)
