"""`patchlens evaluate`: what a judge says of readings that are there already."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchlens.cli.options import Json
from patchlens.cli.terminal import draw, duration, progress, say, say_json
from patchlens.errors import OptionError

if TYPE_CHECKING:
    import pyarrow as pa

    from patchlens.evaluation.judge import Judge
    from patchlens.evaluation.verdict import Answer
    from patchlens.lenses.reading import Readings
    from patchlens.study.readings import Judging

__all__ = ["evaluate"]

_ENDPOINT = "A judge behind an endpoint"


def evaluate(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Readings, as 'patchlens read' writes them.", show_default=False)
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="DIR", help="Folder for verdicts.parquet and the judge's answers."),
    ],
    truth: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Judge by truth: a folder of JSON files, one per image.", show_default=False),
    ] = None,
    judge_url: Annotated[
        str | None, typer.Option(metavar="URL", help="OpenAI-compatible: …/v1", rich_help_panel=_ENDPOINT)
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="What the endpoint calls it.", rich_help_panel=_ENDPOINT)
    ] = None,
    judge_key_env: Annotated[
        str, typer.Option(metavar="VAR", help="Environment variable with its key.", rich_help_panel=_ENDPOINT)
    ] = "OPENAI_API_KEY",
    input_price: Annotated[
        float | None, typer.Option(metavar="AMOUNT", help="Of a million tokens sent.", rich_help_panel=_ENDPOINT)
    ] = None,
    output_price: Annotated[
        float | None,
        typer.Option(metavar="AMOUNT", help="Of a million tokens that come back.", rich_help_panel=_ENDPOINT),
    ] = None,
    budget: Annotated[
        float | None, typer.Option(metavar="AMOUNT", help="Stop before it costs more.", rich_help_panel=_ENDPOINT)
    ] = None,
    rubric: Annotated[
        str, typer.Option(metavar="NAME", help="patch (words) or sentence (words in their sentences).")
    ] = "patch",
    n: Annotated[int | None, typer.Option("--n", metavar="N", help="Images, drawn at random; all if left out.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Chooses images, regions and baseline.")] = 0,
    baseline: Annotated[
        bool, typer.Option("--baseline/--no-baseline", help="Also hold readings of another image against each.")
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Say what would be asked and what it costs, and end.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", metavar="", help="Ask undecided questions again.")] = False,
    json: Json = False,
) -> None:
    """Judge one region per image of saved readings, the same for all lenses and layers.

    Ended at any moment, the same command goes on: nothing that was answered is asked again.
    """
    from patchlens.evaluation.answers import read_answers
    from patchlens.evaluation.metrics import interpretability
    from patchlens.evaluation.records import save_table
    from patchlens.lenses.reading import open_readings
    from patchlens.study.readings import judge_readings, plan_judging

    readings = open_readings(folder)
    judge = _judge(readings, truth, judge_url, judge_model, judge_key_env, input_price, output_price)
    judging = plan_judging(readings, rubric=rubric, images=n, baseline=baseline, seed=seed)
    answers = out / "answers.jsonl" if judge.kept else None
    if dry_run:
        _estimate(judging, judge, read_answers(answers)[1] if answers is not None and answers.is_file() else {}, json)
        return
    with progress() as report:
        verdicts = judge_readings(judging, judge, answers=answers, budget=budget, again=again, report=report)
    save_table(verdicts, out / "verdicts.parquet", "verdicts", {"readings": str(folder.resolve()), "seed": seed})
    if json:
        tallies = interpretability(verdicts)
        say_json({"verdicts": str((out / "verdicts.parquet").resolve()), "tallies": [_plain(each) for each in tallies]})
        return
    _tell(verdicts, judging)
    say(f"Verdicts  {(out / 'verdicts.parquet').resolve()}")


def _judge(
    readings: "Readings",
    truth: Path | None,
    url: str | None,
    model: str | None,
    key_env: str,
    input_price: float | None,
    output_price: float | None,
) -> "Judge":
    from patchlens.evaluation.judges.endpoint import EndpointJudge
    from patchlens.evaluation.judges.truth import TruthJudge
    from patchlens.evaluation.truth import open_truth

    if (truth is None) == (url is None and model is None):
        raise OptionError("Say who judges: either --truth DIR, or --judge-url URL with --judge-model NAME.")
    if truth is not None:
        found = {path.stem: open_truth(path) for path in sorted(truth.glob("*.json"))}
        return TruthJudge({name: found[name] for name in readings.images if name in found})
    if url is None or model is None:
        raise OptionError("A judge behind an endpoint needs --judge-url and --judge-model. Give both.")
    return EndpointJudge(url, model, key_env=key_env, input_price=input_price, output_price=output_price)


def _estimate(judging: "Judging", judge: "Judge", given: "Mapping[str, Answer]", json: bool) -> None:
    estimate = judging.estimate(judge, given)
    if json:
        say_json(dict(vars(estimate)))
        return
    say(f"Questions  {estimate.questions:,} different ones; {estimate.answered:,} more are answered")
    say(f"Tokens     about {estimate.input_tokens:,} sent, {estimate.output_tokens:,} back")
    say(f"Time       {'not known' if estimate.seconds is None else 'about ' + duration(estimate.seconds)}")
    say(f"Cost       {'not known without prices' if estimate.cost is None else f'about {estimate.cost:,.2f}'}")
    if estimate.basis:
        say(f"           {estimate.basis}")


def _tell(verdicts: "pa.Table", judging: "Judging") -> None:
    from rich import box
    from rich.table import Table

    from patchlens.evaluation.metrics import interpretability
    from patchlens.lenses.summary import LENS_TITLES

    drawn: Any = Table(box=box.SIMPLE_HEAD, title="Interpretable patches, with 95 % intervals", title_justify="left")
    for name in ("layer", "lens", "share", "decided", "undecided"):
        drawn.add_column(name, justify="left" if name == "lens" else "right", no_wrap=True)
    for tally in interpretability(verdicts):
        series = tally.series
        lens = LENS_TITLES.get(series.lens, series.lens) + (f", {series.baseline}" if series.baseline else "")
        share = "" if tally.share is None else f"{tally.share:.1%} [{tally.low:.1%}, {tally.high:.1%}]"
        drawn.add_row(str(tally.layer), lens, share, f"{tally.decided:,}", f"{sum(tally.undecided):,}")
    draw(drawn)
    if judging.left_out:
        say(f"{len(judging.left_out)} images have no region of 3 × 3 patches in real pixels and are left out.")


def _plain(tally: Any) -> dict[str, Any]:
    series = tally.series
    return {
        "judge": series.judge,
        "lens": series.lens,
        "baseline": series.baseline,
        "layer": tally.layer,
        "decided": tally.decided,
        "hits": tally.hits,
        "share": tally.share,
        "low": tally.low,
        "high": tally.high,
        "undecided": sum(tally.undecided),
    }
