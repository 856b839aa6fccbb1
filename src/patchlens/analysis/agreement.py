"""How far judges, people among them, decide alike about the same candidates and patches."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from patchlens.analysis import drawing
from patchlens.analysis.finding import Cell, Finding, Table
from patchlens.analysis.rows import codes, records
from patchlens.analysis.verdicts import Point, anything, by, chosen, draw_rows, suffix
from patchlens.errors import OptionError, StudyError
from patchlens.evaluation.agreement import AgreementTable, agreement
from patchlens.evaluation.intervals import Array
from patchlens.evaluation.metrics import sheets
from patchlens.evaluation.verdict import INTERPRETABLE, VERDICTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["judge_agreement"]

_READING = ("model", "lens", "baseline", "layer", "image", "tile", "row", "column")
"""What was judged: the candidates of one patch, by one lens at one layer."""
_COLUMNS = ("lens", "of", "judges", "measure", "value", "low", "high", "items", "alike", "by chance", "undefined")
_EVERY = "all"
"""Stands in the column "lens" for all of them, with their baselines."""
_UNDECIDED, _ABSENT = -1, -2

Answers = dict[str, dict[Hashable, Hashable]]
"""By judge, what it answered about each item."""


@dataclass(frozen=True, eq=False)
class _Judged:
    """What judges decided, side by side."""

    judges: list[str]
    lenses: list[str]
    """Those that read themselves."""
    lens: Array
    """Of each reading, the number of its lens; -1 for baselines [reading]."""
    image: Array
    """Of each reading, the number of its image [reading]."""
    asked: Array
    """Numbers of the questions; -1 for none [reading, judge]."""
    said: Array
    """Places in `VERDICTS`, or why there is none [reading, rank, judge]."""


def judge_agreement(
    verdicts: pa.Table, *, top: int = 5, lenses: Sequence[str] | None = None, draws: int = 2000, seed: int = 0
) -> Finding:
    """Compare judges, two by two and all together, by Cohen's κ, Fleiss' κ and Krippendorff's α.

    Of patches the answers are "interpretable" and "not", of candidates the four verdicts; undecided ones are missing.
    A question that several layers or lenses have in common counts once.

    Args:
        verdicts: Rows of `records.VERDICTS_TABLE` of several judges; people are judges too.
        top: Candidates that count.
        lenses: Which to look at; None for all.
        draws: Resamples of images behind each interval.
        seed: The same seed gives the same intervals.

    Raises:
        OptionError: `top` is below 1, or there is no verdict on one of the lenses.
        StudyError: There are no verdicts, or those of one judge alone, or a judge judged one candidate twice.

    Reference:
        arXiv 2602.00462, App. C, gives Cohen's κ of its judge and people, per patch.
    """
    if top < 1:
        raise OptionError(f"Judges are to be compared on the first {top} candidates. Expected at least 1; 5 are usual.")
    judged = _judged(chosen(verdicts, lenses), top)
    if len(judged.judges) < 2:
        raise StudyError(
            f"Judges are to be compared, and all {verdicts.num_rows:,} verdicts are those of {judged.judges[0]}. Have "
            "the study judged by another one too, or by people."
        )
    rows: list[tuple[Cell, ...]] = []
    for lens in (None, *range(len(judged.lenses))):
        here = np.ones(len(judged.lens), bool) if lens is None else judged.lens == lens
        name = _EVERY if lens is None else judged.lenses[lens]
        for of, answers, clusters in _answers(judged, here):
            made = agreement(answers, clusters=clusters, draws=draws, seed=seed)
            rows += [(name, of, *cells) for cells in _measures(made)]
    table = Table.of(_COLUMNS, rows)
    return Finding(
        name="judge-agreement" + suffix(top),
        title="Agreement of judges",
        note=(
            f"{', '.join(judged.judges)} about patches of {len(set(judged.image.tolist()))} images (top {top}). Of a "
            "patch the answer is whether it is interpretable, of a candidate one of the four verdicts. 1 is full "
            "agreement, 0 what chance gives from each judge's own (Cohen) or the common (Fleiss, Krippendorff) shares "
            "of answers; κ is low where nearly all answers are the same, so “alike” stands beside it. What a judge "
            "left undecided is missing: Cohen's κ takes what both decided, Fleiss' what all did, α what two did. "
            "Intervals are 95 % bootstrap intervals by image. Judges that agree can err together."
        ),
        table=table,
        draw=partial(_draw, table) if anything(table, "value") else None,
    )


def _judged(rows: pa.Table, top: int) -> _Judged:
    sheets(rows)  # refuses what was judged twice
    rows = rows.filter(pc.less_equal(rows["rank"], top))
    key = np.zeros(len(rows), np.int64)
    for name in _READING:
        numbers, values = codes(rows, name)
        key = key * (len(values) + 1) + numbers + 1
    _, first, reading = np.unique(key, return_index=True, return_inverse=True)
    judge, judges = codes(rows, "judge")
    asked = np.full((len(first), len(judges)), -1)
    asked[reading, judge] = codes(rows, "question")[0]
    said = np.full((len(first), top, len(judges)), _ABSENT)
    verdict = pc.index_in(rows["verdict"].cast(pa.string()), value_set=pa.array(VERDICTS))
    said[reading, rows["rank"].to_numpy() - 1, judge] = pc.fill_null(verdict, _UNDECIDED).to_numpy()
    lens, labels = codes(rows, "lens")
    own = codes(rows, "baseline")[0] < 0
    readers = [label for number, label in enumerate(labels) if (own & (lens == number)).any()]
    number_of = np.array([readers.index(label) if label in readers else -1 for label in labels])
    of_reading = np.where(own, number_of[lens], -1)[first]
    return _Judged(judges, readers, of_reading, codes(rows, "image")[0][first], asked, said)


def _answers(judged: _Judged, here: Array) -> Iterator[tuple[str, Answers, dict[Hashable, Hashable]]]:
    """Answers about the patches and the candidates of some readings, with the image of each item."""
    _, once = np.unique(judged.asked[here], axis=0, return_index=True)
    said, image = judged.said[here][once], judged.image[here][once]
    hit = ((said >= 0) & (said < len(INTERPRETABLE))).any(1)
    known = hit | ((said != _UNDECIDED).all(1) & (said >= 0).any(1))
    for of, codes_of, names, images in (
        ("patches", np.where(known, hit, _UNDECIDED), ("not", "interpretable"), image),
        ("candidates", said.reshape(-1, said.shape[-1]), VERDICTS, np.repeat(image, said.shape[1])),
    ):
        answers: Answers = {
            judge: {int(item): names[code[item]] for item in np.flatnonzero(code >= 0)}
            for judge, code in zip(judged.judges, codes_of.T, strict=True)
        }
        yield of, answers, dict(enumerate(images.tolist()))


def _measures(made: AgreementTable) -> Iterator[tuple[Cell, ...]]:
    """What stands under "judges" and the columns after it."""
    every = "all" if len(made.raters) > 2 else " and ".join(made.raters)
    named = [(" and ".join(pair), found) for pair, found in made.pairs.items()]
    for judges, found in (*named, (every, made.fleiss), (every, made.alpha)):
        numbers = (found.value, found.low, found.high, found.items, found.observed, found.expected, found.undefined)
        yield judges, found.measure, *numbers


@drawing.style()
def _draw(table: Table) -> "Figure":
    rows = records(table)
    names = list(dict.fromkeys(f"{row['judges']}, {row['measure']}" for row in rows))
    of_lenses = by(rows, "lens")
    titles = ["all lenses and baselines" if lens == _EVERY else drawing.lens_title(lens) for (lens,) in of_lenses]
    look = drawing.Look("#222222", "o")
    figure, axes = drawing.figure_of(
        titles,
        x="agreement beyond chance",
        y="",
        columns=min(len(titles), 2),
        width=4.1,
        height=0.85 + 0.3 * len(names),
    )
    known = [row for row in rows if row["value"] is not None]
    least = min((min(row["value"], row["low"] or row["value"]) for row in known), default=0.0)
    for panel, part in zip(axes, of_lenses.values(), strict=True):
        points = [
            Point(
                names.index(f"{row['judges']}, {row['measure']}"),
                row["value"],
                row["low"],
                row["high"],
                look,
                filled=row["of"] == "patches",
            )
            for row in part
            if row["value"] is not None
        ]
        draw_rows(panel, names, points)
        panel.set_xlim(min(0.0, least), 1)
    drawing.footnote(
        figure,
        "Filled: whether patches are interpretable; hollow: the verdict of each candidate. Lines: 95 % intervals over "
        "images.",
    )
    return figure
