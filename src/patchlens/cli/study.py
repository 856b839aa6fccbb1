"""`patchlens study`: models × lenses × layers × images × judges, from one file to one folder with a report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchlens.cli.options import Json
from patchlens.cli.terminal import draw, duration, progress, say, say_json
from patchlens.errors import OptionError

if TYPE_CHECKING:
    from patchlens.study.config import StudyConfig
    from patchlens.study.plan import Plan

__all__ = ["study"]

_JUDGE = "A judge besides those of the file"


def study(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="STUDY.toml", help="What is studied; --template prints one.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Folder for everything; an unfinished study there goes on."),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Print a study's file to begin with, and end."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Say what would be done, how long and at what cost, and end.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", metavar="", help="Ask judges again what they left undecided.")
    ] = False,
    judge_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="OpenAI-compatible endpoint of a judge.", rich_help_panel=_JUDGE),
    ] = None,
    judge_model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What the endpoint calls the judge.", rich_help_panel=_JUDGE),
    ] = None,
    judge_key_env: Annotated[
        str,
        typer.Option(metavar="VAR", help="Environment variable with the endpoint's key.", rich_help_panel=_JUDGE),
    ] = "OPENAI_API_KEY",
    budget: Annotated[
        float | None,
        typer.Option(metavar="AMOUNT", help="Stop that judge before it costs more.", rich_help_panel=_JUDGE),
    ] = None,
    input_price: Annotated[
        float | None,
        typer.Option(metavar="AMOUNT", help="Price of a million tokens sent.", rich_help_panel=_JUDGE),
    ] = None,
    output_price: Annotated[
        float | None,
        typer.Option(metavar="AMOUNT", help="Price of a million tokens that come back.", rich_help_panel=_JUDGE),
    ] = None,
    json: Json = False,
) -> None:
    """Run a study, or go on with one: reads, judges, counts, draws, and writes report.html.

    It can be ended at any moment, however it ends; the same command goes on where it was.
    """
    from patchlens.study.config import open_study
    from patchlens.study.config import template as find_template

    if template is not None:
        say(find_template(template).rstrip("\n"))
        return
    if file is None or out is None:
        raise OptionError(
            "A study needs a file and a folder: 'patchlens study STUDY.toml --out DIR'. "
            "'patchlens study --template NAME' prints a file to begin with."
        )
    config = open_study(file)
    if judge_url is not None or judge_model is not None:
        config = _with_judge(config, judge_url, judge_model, judge_key_env, budget, input_price, output_price)
    from patchlens.study.run import Study

    made = Study(config, out)
    with progress() as report:
        plan = made.plan(report)
    if dry_run and json:
        say_json({"steps": [dict(vars(step)) for step in plan.steps], "seconds": plan.seconds, "cost": plan.cost})
        return
    if not json:
        _tell(plan)
    if dry_run:
        return
    from json import loads

    from rich.padding import Padding
    from rich.text import Text

    with progress() as report:
        path = made.run(again=again, report=report)
    if json:
        say_json({"report": str(path.resolve()), "folder": str(out.resolve())})
        return
    for line in loads((out / "study.json").read_text(encoding="utf-8"))["summary"]:
        draw(Padding(Text(line), (0, 0, 1, 0)))
    say(f"Report  {path.resolve()}")


def _with_judge(
    config: "StudyConfig",
    url: str | None,
    model: str | None,
    key_env: str,
    budget: float | None,
    input_price: float | None,
    output_price: float | None,
) -> "StudyConfig":
    """The study with an endpoint as one more judge, if it has not got it already."""
    from dataclasses import replace

    from patchlens.study.config import EndpointConfig

    if url is None or model is None:
        raise OptionError("A judge behind an endpoint needs --judge-url and --judge-model. Give both.")
    for known in config.judges:
        if isinstance(known, EndpointConfig) and (known.url, known.model) == (url, model):
            mine = replace(
                known,
                budget=known.budget if budget is None else budget,
                input_price=known.input_price if input_price is None else input_price,
                output_price=known.output_price if output_price is None else output_price,
            )
            return replace(config, judges=tuple(mine if each is known else each for each in config.judges))
    taken, label = {judge.label for judge in config.judges}, model.rpartition("/")[2]
    judge = EndpointConfig(
        label=label if label not in taken else f"{model}, another endpoint",
        url=url,
        model=model,
        key_env=key_env,
        budget=budget,
        input_price=input_price,
        output_price=output_price,
    )
    return replace(config, judges=(*config.judges, judge))


def _tell(plan: "Plan") -> None:
    from rich import box
    from rich.table import Table

    left = [step for step in plan.steps if step.left]
    if not left:
        say("Everything has been read and asked; only the report is left to be written.")
        return
    drawn: Any = Table(box=box.SIMPLE_HEAD)
    drawn.add_column("to do")
    for name in ("left", "of", "time", "cost"):
        drawn.add_column(name, justify="right", no_wrap=True)
    for step in left:
        time = "?" if step.seconds is None else f"about {duration(step.seconds)}"
        cost = "?" if step.cost is None else f"{step.cost:,.2f}" if step.cost else ""
        what = f"{step.what} ({step.note})" if step.note else step.what
        drawn.add_row(what, f"{step.left:,}", f"{step.total:,}", time, cost)
    draw(drawn)
