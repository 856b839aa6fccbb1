"""`patchlens annotate`: a page on which people judge what a study's judges are asked, blind and by keyboard."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchlens.cli.options import Json
from patchlens.cli.terminal import draw, say, say_json
from patchlens.provenance import JSON

if TYPE_CHECKING:
    from patchlens.evaluation.agreement import Agreement
    from patchlens.evaluation.question import Question

__all__ = ["annotate"]


def annotate(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A study's folder, whose pictures have been read.", show_default=False)
    ],
    annotator: Annotated[
        str,
        typer.Option(metavar="NAME", help="Who annotates; left out, the page asks.", show_default=False),
    ] = "",
    n: Annotated[int, typer.Option("--n", metavar="N", min=1, help="Patches to judge, the same for everyone.")] = 100,
    port: Annotated[int, typer.Option(metavar="PORT", min=0, max=65535, help="0 for any free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
    agreement: Annotated[
        bool,
        typer.Option("--agreement", metavar="", help="Print how far people agree, and end."),
    ] = False,
    json: Json = False,
) -> None:
    """Judge patches by keyboard: lens, layer and rank hidden, in an order of your own. Ctrl-C ends; nothing is lost.

    The study's next report shows how far people agree with each other and with its judges.
    """
    from patchlens.study.config import open_study
    from patchlens.study.run import Study

    study = Study(open_study(folder / "study.toml"), folder)
    people = folder / "people"
    questions = study.questions_for_people(n)
    if agreement:
        _tell_agreement(questions, people, json)
        return
    from patchlens.views.annotate import annotation_app, serve

    app = annotation_app(questions, people, seed=study.config.seed, title=study.config.title, annotator=annotator)

    def started(url: str) -> None:
        if json:
            say_json({"url": url, "questions": len(questions), "answers": str(people.resolve())})
        else:
            say(f"Page     {url}")
            say(f"Answers  {people.resolve()}")

    try:
        serve(app, port=port, open_browser=browser, started=started)
    except KeyboardInterrupt as end:
        end.add_note(f"All answers are kept in {people.resolve()}.")
        raise


def _tell_agreement(questions: "Sequence[Question]", folder: Path, json: bool) -> None:
    """Who agrees with whom, on words and on patches."""
    from patchlens.evaluation.agreement import agreement
    from patchlens.evaluation.ratings import people, ratings

    answered = people(folder)
    rated = ratings(questions, answered)
    tables = {
        "word": agreement(rated.verdicts, clusters=rated.images),
        "patch": agreement(rated.patches, clusters=rated.images),
    }
    rows = [
        (unit, measure, each)
        for unit, table in tables.items()
        for measure, each in (
            *((f"Cohen's κ, {first} and {second}", found) for (first, second), found in table.pairs.items()),
            ("Fleiss' κ", table.fleiss),
            ("Krippendorff's α", table.alpha),
        )
    ]
    if json:
        say_json([{"unit": unit, "measure": measure, **_values(each)} for unit, measure, each in rows])
        return
    from rich import box
    from rich.table import Table

    drawn = Table(box=box.SIMPLE_HEAD)
    drawn.add_column("of each")
    drawn.add_column("measure")
    for name in ("value", "95 % interval", "agree", "items"):
        drawn.add_column(name, justify="right", no_wrap=True)
    for unit, measure, each in rows:
        drawn.add_row(unit, measure, *_cells(each))
    draw(drawn)
    for unit, measure, each in rows:
        if each.undefined is not None:
            say(f"{measure}, of each {unit}: not defined, {each.undefined}")
    asked = {question.id for question in questions}
    for rater, given in answered.items():
        if other := len(given.keys() - asked):
            say(f"{rater}: {other} stored answers are to other questions, and are not counted")
    for rater, reasons in rated.undecided.items():
        say(f"{rater}: {rated.unanswered[rater]} of {len(questions)} not reached, {sum(reasons.values())} skipped")


def _values(found: "Agreement") -> dict[str, JSON]:
    return {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "observed": found.observed,
        "items": found.items,
        "raters": found.raters,
        "undefined": found.undefined,
    }


def _cells(found: "Agreement") -> tuple[str, str, str, str]:
    value = "" if found.value is None else f"{found.value:.2f}"
    interval = "" if found.low is None or found.high is None else f"[{found.low:.2f}, {found.high:.2f}]"
    observed = "" if found.observed is None else f"{found.observed:.0%}"
    return value, interval, observed, f"{found.items:,}"
