"""Judging readings that somebody has already, without a study: one region per image, all lenses and layers."""

import random
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from patchlens.errors import OptionError
from patchlens.evaluation.answers import open_answers
from patchlens.evaluation.asking import ask_all, estimate_all
from patchlens.evaluation.judge import Estimate, Judge
from patchlens.evaluation.question import Question
from patchlens.evaluation.records import CANDIDATES
from patchlens.evaluation.region import Region, sample_region
from patchlens.evaluation.rubric import Rubric, Verdicts, find_rubric
from patchlens.evaluation.verdict import Answer
from patchlens.lenses.reading import Readings
from patchlens.progress import Report, silent
from patchlens.study.judging import Asked, judged_rows, questions, verdict_rows

__all__ = ["Judging", "judge_readings", "plan_judging"]


@dataclass(frozen=True, eq=False)
class Judging:
    """What is to be judged in some readings: made by `plan_judging`, done by `judge_readings`."""

    rows: pa.Table
    """Candidates of the judged patches, and of the baseline; see `records.CANDIDATES`."""
    regions: dict[str, Region]
    """By image."""
    asked: tuple[Asked, ...]
    """The questions, and which rows each is about."""
    rubric: Rubric
    """What the judge is told."""
    left_out: tuple[str, ...]
    """Images in which no region of 3 × 3 patches lies wholly in real pixels, or whose patch was not read."""

    @property
    def questions(self) -> list[Question]:
        """What a judge is asked; equal ones more than once."""
        return [each.question for each in self.asked]

    def estimate(self, judge: Judge, answers: Mapping[str, Answer] | None = None) -> Estimate:
        """What asking a judge would take; `answers` are those from before, by question id."""
        return estimate_all(judge, self.questions, answers)


def plan_judging(
    readings: Readings,
    *,
    rubric: str | Rubric = "patch",
    images: int | None = None,
    baseline: bool = True,
    seed: int = 0,
) -> Judging:
    """Choose one region per image, the same for all lenses and layers, and say what a judge will be asked.

    Args:
        readings: Of visual tokens with places; any lenses and layers.
        rubric: "patch" shows words, "sentence" the sentences that they stand in; or one of your own, see `find_rubric`.
        images: How many images, drawn at random; None for all.
        baseline: Also hold every image's candidates against the region of another image.
        seed: Chooses images, regions and the baseline's pairs.

    Raises:
        OptionError: No image of the readings has a region, or fewer images than asked for are there.
    """
    shown = {name: image for name, image in readings.images.items() if image is not None and readings.tiles.get(name)}
    if images is not None and not 1 <= images <= len(shown):
        raise OptionError(
            f"{images} images were to be judged; these readings have {len(shown)} with visual tokens that have places. "
            "Choose a number among those."
        )
    chosen = list(shown) if images is None else sorted(random.Random(f"{seed} images").sample(sorted(shown), images))
    found = {name: sample_region(shown[name], readings.tiles[name], seed=seed) for name in chosen}
    regions = {name: region for name, region in found.items() if region is not None}
    if not regions:
        raise OptionError(
            f"None of the {len(readings.images)} images of these readings has a region of 3 × 3 patches in real pixels "
            "to be judged by. Read larger images, or with a model that gives its visual tokens places."
        )
    made = find_rubric(rubric) if isinstance(rubric, str) else rubric
    if not isinstance(made, Verdicts):
        raise OptionError(
            f"The rubric {made.name!r} gives no verdicts on words. Judge readings with 'patch' or 'sentence'."
        )
    rows = _rows(readings, regions)
    read = set(rows["image"].cast(pa.string()).to_pylist())
    regions = {name: region for name, region in regions.items() if name in read}
    if not regions:
        raise OptionError(
            "None of the patches to be judged was read. Read visual tokens: patchlens read --positions visual."
        )
    lenses = list(readings.lenses)
    rows = judged_rows(rows, lenses, another=lenses if baseline else [], seed=seed)
    asked = tuple(questions(rows, made, {name: shown[name] for name in regions}, regions))
    return Judging(rows, regions, asked, made, tuple(name for name in chosen if name not in regions))


def judge_readings(
    judging: Judging,
    judge: Judge,
    *,
    answers: str | Path | None = None,
    budget: float | None = None,
    again: bool = False,
    report: Report = silent,
) -> pa.Table:
    """Ask a judge, and give a verdict for every candidate: `evaluation.metrics` counts them.

    Args:
        judging: From `plan_judging`.
        judge: Any judge that knows the rubric.
        answers: A file in which answers are kept as they come; what stands there is not asked again. None keeps none.
        budget: Stop before more than this is spent, in the currency of the judge's prices; what the file's answers cost
            counts too.
        again: Ask undecided questions of the file again.
        report: Told how far it is.

    Returns:
        Rows of `records.VERDICTS_TABLE`.

    Raises:
        JudgeError: The judge cannot go on; BudgetSpent. The file keeps what was answered.
        StudyError: The file holds another judge's answers, or is damaged.
        StorageError: The disk refused.
    """
    kept = nullcontext(None) if answers is None else open_answers(Path(answers), judge.identity)
    with kept as store:
        given = ask_all(judge, judging.questions, answers=store, budget=budget, again=again, report=report)
    return verdict_rows(judging.rows, judging.asked, given, judge=judge.label, rubric=judging.rubric.name)


def _rows(readings: Readings, regions: dict[str, Region]) -> pa.Table:
    """The candidates of the patch in the middle of each region."""
    table = readings.table
    keep = [
        pc.and_(
            pc.equal(table["image"].cast(pa.string()), name),
            pc.and_(
                pc.equal(table["tile"], region.tile),
                pc.and_(pc.equal(table["row"], region.row), pc.equal(table["column"], region.column)),
            ),
        )
        for name, region in regions.items()
    ]
    parts = [table.filter(pc.fill_null(each, False)) for each in keep]
    joined = pa.concat_tables(parts)
    count = joined.num_rows
    added = {
        "model": pa.array([_model(readings)] * count, pa.string()),
        "baseline": pa.nulls(count, pa.string()),
        "judged": pa.array([True] * count),
    }
    columns: Sequence[pa.Array] = [added[name] if name in added else joined[name] for name in CANDIDATES.names]
    return pa.table(columns, names=CANDIDATES.names).cast(CANDIDATES)


def _model(readings: Readings) -> str:
    """The models that the states came from, as they were asked for."""
    names = {record.get("states", {}).get("model", "") for record in readings.provenance}
    return " and ".join(sorted(name for name in names if name)) or "unknown"
