"""How often a judge finds a lens's words fitting: by layer, over layers, and by rank, beside what chance gives."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from patchlens.analysis import drawing
from patchlens.analysis.finding import Cell, Finding, Table
from patchlens.analysis.rows import records
from patchlens.analysis.verdicts import (
    SERIES,
    UNDECIDED_COLUMNS,
    Point,
    account,
    anything,
    by,
    canvas,
    cells_of,
    chosen,
    curve,
    draw_curves,
    draw_rows,
    looks_of,
    panels,
    percent,
    span,
    suffix,
    undecided_cells,
)
from patchlens.errors import StudyError
from patchlens.evaluation import metrics
from patchlens.evaluation.metrics import RANDOM_ROWS, Tally

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["by_rank", "interpretability", "means"]

_SHARE = ("images", "interpretable", "share", "low", "high")
_DASHED = "Dashed: the same lens's words for another image, held against this one; gray: random rows of the bank."


def interpretability(verdicts: pa.Table, *, top: int = 5, lenses: Sequence[str] | None = None) -> Finding:
    """The share of interpretable patches by lens and layer, with both baselines.

    Args:
        verdicts: Rows of `records.VERDICTS_TABLE`.
        top: Candidates that count; 1 asks of the best one alone.
        lenses: Which to show, as the rows call them; None for all.

    Raises:
        OptionError: `top` is below 1, or there is no verdict on one of the lenses.
        StudyError: There are no verdicts, or one candidate was judged twice.

    Reference:
        arXiv 2602.00462, §3.3, §4.2 and figure 3; intervals and baselines are ours.
    """
    tallies = metrics.interpretability(chosen(verdicts, lenses), top=top)
    table = Table.of(
        (*SERIES, "layer", "top", "patches", *_SHARE, "detectable difference", *UNDECIDED_COLUMNS),
        [
            (*cells_of(tally.series), tally.layer, top, *_share_cells(tally), tally.detectable, *undecided_cells(tally))
            for tally in tallies
        ],
    )
    return Finding(
        name="interpretability" + suffix(top),
        title="Interpretable patches by layer" + _best(top),
        note=(
            f"{_asked(top)} {account(tallies)} {_detectable(tallies)}Two baselines show what a judge grants where "
            "nothing was read: a lens's words for another image, and random rows of the bank."
        ),
        table=table,
        draw=partial(_draw, table) if anything(table, "share") else None,
    )


def means(verdicts: pa.Table, *, top: int = 5, lenses: Sequence[str] | None = None) -> Finding:
    """The mean over layers of the share of interpretable patches, by lens, with both baselines.

    Raises:
        OptionError: `top` is below 1, or there is no verdict on one of the lenses.
        StudyError: There are no verdicts, none is decided, or one candidate was judged twice.
    """
    found = metrics.over_layers(chosen(verdicts, lenses), top=top)
    if not found:
        raise StudyError(f"Of {verdicts.num_rows:,} verdicts not one was decided. Have the study judged again.")
    table = Table.of(
        (*SERIES, "top", "layers", "images", "mean", "low", "high"),
        [
            (*cells_of(mean.series), top, len(mean.layers), mean.images, mean.value, mean.low, mean.high)
            for mean in found
        ],
    )
    return Finding(
        name="interpretability-means" + suffix(top),
        title="Interpretable patches, mean over layers" + _best(top),
        note=(
            f"{_asked(top)} The mean is over {span(len(mean.layers) for mean in found)} judged layers, each weighing "
            f"the same; over other layers it is another number. Intervals are 95 % bootstrap intervals by image "
            f"({span(mean.images for mean in found)} images, each drawn with all its layers). Undecided patches are in "
            "no share."
        ),
        table=table,
        draw=partial(_draw_means, table),
    )


def by_rank(verdicts: pa.Table, *, lenses: Sequence[str] | None = None) -> Finding:
    """The share of interpretable candidates by rank, over all layers, with both baselines.

    Raises:
        OptionError: There is no verdict on one of the lenses.
        StudyError: There are no verdicts, or one candidate was judged twice.
    """
    tallies = metrics.by_rank(chosen(verdicts, lenses))
    table = Table.of(
        (*SERIES, "rank", "candidates", *_SHARE, *UNDECIDED_COLUMNS),
        [(*cells_of(tally.series), tally.rank, *_share_cells(tally), *undecided_cells(tally)) for tally in tallies],
    )
    return Finding(
        name="interpretability-by-rank",
        title="Interpretable candidates by rank",
        note=(
            "Each candidate by itself, the lens's first choice being rank 1, over all judged layers together. "
            f"{account(tallies, 'candidates')}"
        ),
        table=table,
        draw=partial(_draw_ranks, table) if anything(table, "share") else None,
    )


@drawing.style()
def _draw(table: Table) -> "Figure":
    rows = records(table)
    looks, found = looks_of(rows), panels(rows)
    figure, axes = canvas(found, x="layer", y="interpretable patches")
    for panel, part in zip(axes, found.values(), strict=True):
        drawing.layer_axis(panel, sorted({row["layer"] for row in part}))
        drawing.percent_axis(panel)
        draw_curves(panel, _lines(part, looks, x="layer"))
    _explain(figure, rows, "Bands: 95 % intervals.")
    return figure


@drawing.style()
def _draw_ranks(table: Table) -> "Figure":
    rows = records(table)
    looks, found = looks_of(rows), panels(rows)
    figure, axes = canvas(found, x="rank of the candidate", y="interpretable candidates")
    for panel, part in zip(axes, found.values(), strict=True):
        panel.set_xticks(sorted({row["rank"] for row in part}))
        drawing.percent_axis(panel)
        draw_curves(panel, _lines(part, looks, x="rank"))
    _explain(figure, rows, "Bands: 95 % intervals over images.")
    return figure


@drawing.style()
def _draw_means(table: Table) -> "Figure":
    rows = records(table)
    looks, found = looks_of(rows), panels(rows)
    lenses = list(dict.fromkeys(row["lens"] for row in rows))
    title = "interpretable patches, mean over layers"
    figure, axes = canvas(found, x=title, y="", height=0.85 + 0.22 * len(lenses))
    for panel, part in zip(axes, found.values(), strict=True):
        points = [
            Point(
                lenses.index(row["lens"]),
                row["mean"],
                row["low"],
                row["high"],
                looks[row["lens"]],
                filled=row["baseline"] is None,
            )
            for row in part
        ]
        draw_rows(panel, [drawing.lens_title(lens) for lens in lenses], points)
        panel.set_xlim(0, 1)
        panel.xaxis.set_major_formatter(percent)
    _explain(figure, rows, "Bars: 95 % intervals over images.", "Hollow: the same lens's words for another image.")
    return figure


def _lines(rows: Iterable[dict[str, Any]], looks: Mapping[str, drawing.Look], *, x: str) -> list[drawing.Line]:
    """One line per lens with its name, and dashed ones for baselines."""
    return [
        # Its own baseline has a lens's color, and needs no name.
        curve(
            part,
            drawing.lens_title(lens) if baseline in (None, RANDOM_ROWS) else "",
            looks[lens],
            x=x,
            dashed=baseline is not None,
        )
        for (lens, baseline), part in by(rows, "lens", "baseline").items()
    ]


def _explain(figure: "Figure", rows: Iterable[dict[str, Any]], intervals: str, baselines: str = _DASHED) -> None:
    shown = any(row["baseline"] is not None for row in rows)
    drawing.footnote(figure, f"{intervals} {baselines}" if shown else intervals)


def _share_cells(tally: Tally) -> tuple[Cell, ...]:
    """The number of things, and then what stands under `_SHARE`."""
    return tally.decided, tally.images, tally.hits, tally.share, tally.low, tally.high


def _asked(top: int) -> str:
    asked = "its best candidate" if top == 1 else f"one of its {top} best candidates"
    return f"A patch is interpretable when {asked} is concrete, abstract or global."


def _detectable(tallies: Iterable[Tally]) -> str:
    found = [100 * t.detectable for t in tallies if t.series.baseline is None and t.detectable is not None]
    if not found:
        return ""
    return (
        f"With so many images a share on other images would have to differ by {span(found, '.0f')} points for a test "
        "at 5 % to find it in 80 % of cases; tests on the same images find smaller differences. "
    )


def _best(top: int) -> str:
    return {5: "", 1: ", best candidate alone"}.get(top, f", {top} best candidates")
