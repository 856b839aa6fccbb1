"""How well models describe images: compared with what is known of them, and as judges see it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa

from patchlens.analysis import drawing
from patchlens.analysis.drawing import Bars, Look
from patchlens.analysis.finding import Cell, Finding, Table
from patchlens.analysis.rows import groups, records
from patchlens.errors import StudyError
from patchlens.evaluation.captions import WHAT, ClaimScore, Marked, Measure, caption_scores
from patchlens.evaluation.intervals import Array, clustered
from patchlens.evaluation.statistics import bootstrap, ratio
from patchlens.evaluation.truth import CaptionTruth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["captions_by_claims", "captions_by_mark", "captions_by_truth"]

Judged: TypeAlias = tuple[str, str]
"""A model, and the judge of its descriptions."""

_SHARES = ("precision", "recall", "F1")
_LOOKS = dict(zip(_SHARES, (Look("#56b4e9", "s"), Look("#0072b2", "o"), Look("#6f6f6f", "D")), strict=True))
_MISREAD = "read where nothing is written"
_MARKS = tuple(range(1, 11))

_OF_TRUTH = ("model", "of", "measure", "images", "hits", "trials", "share", "low", "high")
_OF_CLAIMS = ("model", "judge", "measure", "images", "claims", "mean", "low", "high", "undecided", "why")
_OF_MARKS = ("model", "judge", "images", "mean mark", "low", "high", *map(str, _MARKS), "undecided", "why")


def captions_by_truth(captions: pa.Table, truths: Mapping[str, CaptionTruth]) -> Finding:
    """Compare each model's descriptions with what is known: things, their colors, the place, what is written.

    Args:
        captions: With the columns of `CAPTIONS`; those of images of which nothing is known are left out.
        truths: What descriptions should say, by the image's name.

    Raises:
        StudyError: There is no description of an image of which anything is known.
    """
    rows: list[tuple[Cell, ...]] = []
    written = {word for truth in truths.values() for word in truth.written}
    for (model,), part in groups(captions, ("model",)):
        said = zip(part["image"].to_pylist(), part["caption"].to_pylist(), strict=True)
        found = caption_scores([(truths[image], text) for image, text in said if image in truths], written=written)
        if not found.counts:
            continue
        for what in WHAT:
            measures = (found.precision(what), found.recall(what), found.f1(what))
            rows += [(model, what, name, *_cells(m)) for name, m in zip(_SHARES, measures, strict=True)]
        rows.append((model, "written", _MISREAD, *_cells(found.misread)))
    if not rows:
        raise StudyError(
            f"None of {captions.num_rows:,} descriptions is of an image of which it is known what should be said "
            f"({len(truths)} are). Describe drawn pictures, or compare them by a judge."
        )
    table = Table.of(_OF_TRUTH, rows)
    return Finding(
        name="captions-by-truth",
        title="Descriptions compared with what is there",
        note=(
            "Words of a description are compared with what is known of its image: things by their nouns (two alike "
            "must be said twice), colors directly before their thing, the place, written words. Precision is the share "
            "of what is said that is there, recall the share of what is there that is said; hits and trials are "
            "summed over images, and 95 % intervals take images for independent. Only words of the images' own world "
            "can be wrong: other things that are said count neither way, and neither do relations, sizes or numbers "
            "of what was not drawn."
        ),
        table=table,
        draw=partial(_draw_truth, table),
    )


def captions_by_claims(scores: Mapping[Judged, Sequence[ClaimScore]]) -> Finding:
    """Average the precision, recall and F1 of descriptions' claims over images.

    Args:
        scores: What `claim_scores` made of each model's descriptions, by model and judge.

    Raises:
        StudyError: No description was judged, or none was decided.
    """
    rows: list[tuple[Cell, ...]] = []
    for key, judged in scores.items():
        counts = (sum(len(s.said) for s in judged), sum(len(s.wanted) for s in judged))
        values = ([s.precision for s in judged], [s.recall for s in judged], [s.f1 for s in judged])
        for name, of_images, claims in zip(_SHARES, values, (*counts, sum(counts)), strict=True):
            shares = np.array([share for share in of_images if share is not None])
            rows.append((*key, name, len(shares), claims, *_mean_share(shares), *_undecided(judged)))
    _check_decided([row[3] for row in rows], scores)
    table = Table.of(_OF_CLAIMS, rows)
    return Finding(
        name="captions-by-claims",
        title="Descriptions taken apart into claims",
        note=(
            "A judge splits each description into single claims and holds them against the picture: precision is the "
            "share that it supports. It splits a reference too, where there is one, and holds its claims against the "
            "description: recall is the share that the description supports. F1 is the harmonic mean of both, image "
            "by image; the table has the means over images, with 95 % intervals that take images for independent. An "
            "image with an undecided question is in no mean. This is what DCScore means (arXiv 2503.07906), with our "
            "departures: recall is of the reference's claims alone, all claims count alike, and the judge takes "
            "references apart. It can be no better than the judge."
        ),
        table=table,
        draw=partial(_draw_claims, table),
    )


def captions_by_mark(marks: Mapping[Judged, Sequence[Marked]]) -> Finding:
    """Average the marks from 1 to 10 that descriptions were given, and count them.

    Args:
        marks: What `evaluation.captions.marks` made of each model's descriptions, by model and judge.

    Raises:
        StudyError: No description was marked, or none was decided.
    """
    rows: list[tuple[Cell, ...]] = []
    for key, given in marks.items():
        counts = Counter(each.mark for each in given if each.mark is not None)
        times = [counts[mark] for mark in _MARKS]
        rows.append((*key, counts.total(), *_mean_mark(counts), *times, *_undecided(given)))
    _check_decided([row[2] for row in rows], marks)
    table = Table.of(_OF_MARKS, rows)
    return Finding(
        name="captions-by-mark",
        title="Descriptions marked from 1 to 10",
        note=(
            "A judge marks each description as a whole, from 1 to 10; means with 95 % intervals from resampling "
            "images. This is what the code of arXiv 2602.00462 asks for and its paper calls DCScore. Our text and our "
            "judges are others, so these marks are not comparable with the published ones. A mark says neither what "
            "is wrong nor how a judge weighs it, and judges hardly use the whole scale."
        ),
        table=table,
        draw=partial(_draw_marks, table),
    )


def _cells(measure: Measure) -> tuple[Cell, ...]:
    ends = (measure.share, measure.low, measure.high) if measure.trials else (None, None, None)
    return (measure.images, measure.hits, measure.trials, *ends)


def _mean_share(shares: Array) -> tuple[Cell, Cell, Cell]:
    """The mean of one share per image, with its interval; unknown without any."""
    return (float(shares.mean()), *clustered(shares, np.ones(len(shares)))) if len(shares) else (None, None, None)


def _mean_mark(counts: Counter[int]) -> tuple[Cell, Cell, Cell]:
    if not counts:
        return None, None, None
    found = bootstrap(np.array([(mark, 1) for mark in counts.elements()]), ratio)
    return found.value, found.low, found.high


def _undecided(judged: Sequence[ClaimScore] | Sequence[Marked]) -> tuple[int, str]:
    """How many images, and how often for which reason."""
    counts = Counter(each.undecided for each in judged if each.undecided is not None)
    return counts.total(), ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))


def _check_decided(images: Sequence[Cell], judged: Mapping[Judged, Sequence[object]]) -> None:
    if not any(images):
        raise StudyError(
            f"None of {sum(map(len, judged.values())):,} judged descriptions was decided, so there is nothing to "
            "average. Look at what the judge replied, or ask another one."
        )


@drawing.style()
def _draw_truth(table: Table) -> "Figure":
    rows = [row for row in records(table) if row["measure"] in _SHARES]
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure, panels = drawing.figure_of(models, x="", y="share", columns=2)
    for axes, model in zip(panels, models, strict=True):
        mine = [row for row in rows if row["model"] == model]
        drawn = [what for what in WHAT if any(row["of"] == what and row["share"] is not None for row in mine)]
        _draw_shares(axes, drawn, {(row["of"], row["measure"]): row for row in mine}, "share")
    return figure


@drawing.style()
def _draw_claims(table: Table) -> "Figure":
    rows = records(table)
    judges = list(dict.fromkeys(row["judge"] for row in rows))
    titles = [f"judged by {judge}" for judge in judges]
    figure, panels = drawing.figure_of(titles, x="", y="mean over images", columns=2)
    for axes, judge in zip(panels, judges, strict=True):
        mine = {(row["model"], row["measure"]): row for row in rows if row["judge"] == judge}
        _draw_shares(axes, list(dict.fromkeys(model for model, _ in mine)), mine, "mean")
    return figure


def _draw_shares(
    axes: "Axes", names: Sequence[str], rows: Mapping[tuple[str, str], Mapping[str, Any]], value: str
) -> None:
    """Precision, recall and F1 side by side for each name; those that are not known for any name are left out."""
    axes.set_title(axes.get_title(loc="left"), pad=16)  # the legend stands below it
    drawing.percent_axis(axes)
    series = []
    for measure, look in _LOOKS.items():
        mine = [rows[name, measure] for name in names]
        if any(row[value] is not None for row in mine):
            heights = [row[value] or 0.0 for row in mine]
            low, high = [row["low"] for row in mine], [row["high"] for row in mine]
            series.append(Bars(measure, heights, look, low, high))
    if series:
        drawing.draw_bars(axes, list(names), series)


@drawing.style()
def _draw_marks(table: Table) -> "Figure":
    rows = records(table)
    titles = [f"{row['model']}, marked by {row['judge']}" for row in rows]
    figure, panels = drawing.figure_of(titles, x="mark", y="descriptions", columns=2)
    for axes, row in zip(panels, rows, strict=True):
        decided = max(1, row["images"])
        heights = [row[str(mark)] / decided for mark in _MARKS]
        drawing.draw_bars(axes, [str(mark) for mark in _MARKS], [Bars("", heights, Look("#0072b2", "o"))])
    for axes in panels:  # which share one scale: it must have seen all bars
        drawing.percent_axis(axes, whole=False)
    return figure
