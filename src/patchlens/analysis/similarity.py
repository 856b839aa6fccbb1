"""How similar a visual token's nearest candidate is, per layer and lens; LogitLens has no cosine and is left out."""

from collections.abc import Sequence
from functools import partial
from math import ceil, floor, isclose
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from patchlens.analysis import drawing
from patchlens.analysis.drawing import Line
from patchlens.analysis.finding import Cell, Finding, Table
from patchlens.analysis.rows import codes, groups, mean, numbers, own, records, top
from patchlens.errors import OptionError, StudyError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["similarity", "similarity_histograms"]

_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_COLUMNS = (
    *("model", "lens", "layer", "images", "tokens", "mean cosine", "low", "high"),
    *("least", *(f"{quantile:.0%}".replace("%", " %") for quantile in _QUANTILES), "largest"),
)
_BINS = ("model", "lens", "layer", "from", "to", "tokens", "share")


def similarity(candidates: pa.Table) -> Finding:
    """Summarize the cosine of the nearest candidate, per layer and lens.

    Args:
        candidates: With the columns of `CANDIDATES`; baselines are left out.

    Raises:
        StudyError: No nearest candidate has a similarity.
    """
    nearest = _nearest(candidates)
    rows: list[tuple[Cell, ...]] = []
    for key, part in groups(nearest, ("model", "lens", "layer")):
        cosines, (images, names) = numbers(part, "similarity"), codes(part, "image")
        middle = mean(cosines, images)
        spread = np.quantile(cosines, (0.0, *_QUANTILES, 1.0)).tolist()
        rows.append((*key, len(names), len(cosines), middle.value, middle.low, middle.high, *spread))
    table = Table.of(_COLUMNS, rows)
    return Finding(
        name="similarity",
        title="Similarity of the nearest candidate",
        note=(
            "The cosine of a visual token's state with its nearest candidate, averaged over tokens; 95 % intervals are "
            f"from resampling images ({len(pc.unique(nearest['image']))} in all). Cosines depend on the model, the "
            "layer and how many rows were searched: a larger one is no better reading, and lenses should not be ranked "
            "by it."
        ),
        table=table,
        draw=partial(_draw_means, table),
    )


def similarity_histograms(candidates: pa.Table, *, width: float = 0.02) -> Finding:
    """Count visual tokens by the cosine of their nearest candidate, per layer and lens.

    Args:
        candidates: With the columns of `CANDIDATES`; baselines are left out.
        width: Of a bin; all histograms have the same bins, which start at whole multiples of it.

    Raises:
        StudyError: No nearest candidate has a similarity.
        OptionError: The width is not in (0, 1].
    """
    if not 0 < width <= 1:
        raise OptionError(f"The bins of a histogram of cosines are {width} wide. Expected a number in (0, 1].")
    nearest = _nearest(candidates)
    edges = _edges(numbers(nearest, "similarity").tolist(), width)
    rows: list[tuple[Cell, ...]] = []
    for key, part in groups(nearest, ("model", "lens", "layer")):
        counts = np.histogram(numbers(part, "similarity"), edges)[0].tolist()
        rows += [
            (*key, low, high, count, count / part.num_rows)
            for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
        ]
    table = Table.of(_BINS, rows)
    return Finding(
        name="similarity-histograms",
        title="Similarity of the nearest candidate, layer by layer",
        note=(
            f"How many of the visual tokens of {len(pc.unique(nearest['image']))} images have a nearest candidate "
            "of that cosine; a bin holds its lower end, the last one both. All ridges of a figure have one scale."
        ),
        table=table,
        draw=partial(_draw_ridges, table),
    )


def _nearest(candidates: pa.Table) -> pa.Table:
    found = top(own(candidates), 1)
    known = found.filter(pc.is_valid(found["similarity"]))
    if not known.num_rows:
        raise StudyError(
            f"None of the nearest of {candidates.num_rows:,} candidates has a similarity; LogitLens gives none. Run "
            "the study with LatentLens or EmbeddingLens among its lenses."
        )
    return known


def _edges(values: Sequence[float], width: float) -> list[float]:
    """Multiples of the width around all values."""
    first, last = floor(min(values) / width), ceil(max(values) / width)
    if isclose(last * width, max(values)) and last * width < max(values):
        last += 1  # the product was rounded down
    return [step * width for step in range(first, max(last, first + 1) + 1)]


@drawing.style()
def _draw_means(table: Table) -> "Figure":
    rows = records(table)
    models = list(dict.fromkeys(row["model"] for row in rows))
    looks = drawing.lens_looks(list(dict.fromkeys(row["lens"] for row in rows)))
    figure, panels = drawing.figure_of(models, x="layer", y="cosine of the nearest (mean)")
    panels[0].set_ylim(min(0.0, *(row["mean cosine"] for row in rows)), 1.08 * max(row["mean cosine"] for row in rows))
    for axes, model in zip(panels, models, strict=True):
        here = [row for row in rows if row["model"] == model]
        drawing.layer_axis(axes, [row["layer"] for row in here])
        lines = []
        for lens, look in looks.items():
            part = [row for row in here if row["lens"] == lens]
            lines.append(
                Line(
                    label=drawing.lens_title(lens),
                    x=[row["layer"] for row in part],
                    y=[row["mean cosine"] for row in part],
                    look=look,
                    low=[row["low"] for row in part],
                    high=[row["high"] for row in part],
                )
            )
        drawing.draw_lines(axes, [line for line in lines if line.x])
    return figure


@drawing.style()
def _draw_ridges(table: Table) -> "Figure":
    rows = records(table)
    edges = sorted({row["from"] for row in rows} | {row["to"] for row in rows})
    of_panels = dict.fromkeys((row["model"], row["lens"]) for row in rows)
    looks = drawing.lens_looks(list(dict.fromkeys(row["lens"] for row in rows)))
    titles = [f"{model}: {drawing.lens_title(lens)}" for model, lens in of_panels]
    figure, panels = drawing.figure_of(titles, x="cosine of the nearest", y="layer", height=2.8, shared=False)
    highest = max(row["share"] for row in rows)
    for axes, (model, lens) in zip(panels, of_panels, strict=True):
        shares: dict[int, list[float]] = {}
        for row in rows:
            if (row["model"], row["lens"]) == (model, lens):
                shares.setdefault(row["layer"], []).append(row["share"])
        drawing.draw_ridges(
            axes,
            edges,
            list(shares.values()),
            names=[str(layer) for layer in shares],
            look=looks[lens],
            most=highest,
        )
    return figure
