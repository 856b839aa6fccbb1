"""`patchlens bank`: what is done with banks, one file per verb."""

import typer

from patchlens.cli.bank.add import add
from patchlens.cli.bank.build import build
from patchlens.cli.bank.importing import import_
from patchlens.cli.bank.info import info
from patchlens.cli.bank.merge import merge
from patchlens.cli.bank.plan import plan
from patchlens.cli.bank.pull import pull
from patchlens.cli.bank.push import push
from patchlens.cli.bank.stats import stats
from patchlens.cli.bank.verify import verify

__all__ = ["app"]

app = typer.Typer(
    help="Build, check, join and share banks of contextual embeddings.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
app.command("plan")(plan)
app.command("build")(build)
app.command("info")(info)
app.command("stats")(stats)
app.command("verify")(verify)
app.command("merge")(merge)
app.command("add")(add)
app.command("import")(import_)
app.command("push")(push)
app.command("pull")(pull)
