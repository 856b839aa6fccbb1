"""Drift: how far the states of visual and of text tokens turn away from what they were at layer 0."""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from patchlens.analysis import drawing
from patchlens.analysis.drawing import Line
from patchlens.analysis.finding import Cell, Finding, Table
from patchlens.analysis.rows import codes, groups, mean, numbers, records
from patchlens.errors import StudyError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["drift"]

_COLUMNS = (
    *("model", "kind", "layer", "images", "tokens", "mean cosine", "low", "high"),
    *("lower quartile", "median", "upper quartile"),
)


def drift(states: pa.Table) -> Finding:
    """Summarize the cosine of each token's state with its own state at layer 0, per layer and kind of token.

    Args:
        states: With the columns of `STATES`; tokens whose drift is not known are left out.

    Raises:
        StudyError: There is none whose drift is known.
    """
    known = states.filter(pc.is_valid(states["drift"]))
    if not known.num_rows:
        raise StudyError(
            f"None of {states.num_rows:,} states has a drift, which is measured from layer 0. Run the study with "
            "states of its models, layer 0 among the layers."
        )
    rows: list[tuple[Cell, ...]] = []
    for key, part in groups(known, ("model", "kind", "layer")):
        cosines, (images, names) = numbers(part, "drift"), codes(part, "image")
        middle = mean(cosines, images)
        quartiles = np.quantile(cosines, (0.25, 0.5, 0.75)).tolist()
        rows.append((*key, len(names), len(cosines), middle.value, middle.low, middle.high, *quartiles))
    table = Table.of(_COLUMNS, rows)
    return Finding(
        name="drift",
        title="Drift: how far states turn away from layer 0",
        note=(
            "The cosine of a token's state with the same token's state at layer 0, averaged over tokens; 95 % "
            f"intervals are from resampling images ({len(pc.unique(known['image']))} in all). Visual tokens enter with "
            "most of what they hold, text tokens with a word's embedding, so the two start from different things. "
            "Directions that all states share, as models often have, keep the cosine up without any meaning being kept."
        ),
        table=table,
        draw=partial(_draw, table),
    )


@drawing.style()
def _draw(table: Table) -> "Figure":
    rows = records(table)
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure, panels = drawing.figure_of(models, x="layer", y="cosine with layer 0 (mean)")
    for axes, model in zip(panels, models, strict=True):
        of_kinds = {
            kind: [row for row in rows if row["model"] == model and row["kind"] == kind] for kind in drawing.KINDS
        }
        axes.set_ylim(min(0.0, *(row["mean cosine"] for row in rows)), 1)
        drawing.layer_axis(axes, [row["layer"] for row in rows if row["model"] == model])
        drawing.draw_lines(
            axes,
            [
                Line(
                    label=kind,
                    x=[row["layer"] for row in part],
                    y=[row["mean cosine"] for row in part],
                    look=drawing.KINDS[kind],
                    low=[row["low"] for row in part],
                    high=[row["high"] for row in part],
                )
                for kind, part in of_kinds.items()
                if part
            ],
        )
    return figure
