"""What interpretable patches and candidates are: concrete, abstract or global."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from patchlens.analysis import drawing
from patchlens.analysis.finding import Finding, Table
from patchlens.analysis.rows import records
from patchlens.analysis.verdicts import SERIES, account, anything, canvas, cells_of, chosen, panels
from patchlens.evaluation import metrics
from patchlens.evaluation.metrics import Tally
from patchlens.evaluation.verdict import INTERPRETABLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["types_of_candidates", "types_of_patches"]

_ALL = "all"
"""Stands in the column "layer" for all of them together."""
_LEGIBLE = 12
"""More bars in a panel have no room for numbers in them, nor each for its layer's name."""


def types_of_patches(verdicts: pa.Table, *, top: int = 5, lenses: Sequence[str] | None = None) -> Finding:
    """How many patches are concrete, abstract and global, by lens and layer, and over all layers.

    A patch is of the first of these types, in this order, that one of its candidates has.

    Args:
        verdicts: Rows of `records.VERDICTS_TABLE`.
        top: Candidates that count.
        lenses: Which to show, as the rows call them; None for all.

    Raises:
        OptionError: `top` is below 1, or there is no verdict on one of the lenses.
        StudyError: There are no verdicts, or one candidate was judged twice.

    Reference:
        arXiv 2602.00462, figures 16 and 17: shares among the interpretable patches, here beside those of all.
    """
    return _types("patches", metrics.interpretability, verdicts, top, lenses)


def types_of_candidates(verdicts: pa.Table, *, top: int = 5, lenses: Sequence[str] | None = None) -> Finding:
    """How many candidates, each by itself, are concrete, abstract and global; arguments as in `types_of_patches`.

    Raises:
        OptionError: `top` is below 1, or there is no verdict on one of the lenses.
        StudyError: There are no verdicts, or one candidate was judged twice.

    Reference:
        arXiv 2602.00462, figure 15, which counts the words that a judge listed.
    """
    return _types("candidates", metrics.candidates, verdicts, top, lenses)


def _types(
    things: str, count: Callable[..., tuple[Tally, ...]], verdicts: pa.Table, top: int, lenses: Sequence[str] | None
) -> Finding:
    rows = chosen(verdicts, lenses)
    tallies = [
        tally
        for by_layer in (True, False)
        for kinds in zip(*(count(rows, top=top, kind=kind, by_layer=by_layer) for kind in INTERPRETABLE), strict=True)
        for tally in kinds
    ]
    table = Table.of(
        (*SERIES, "layer", "type", "top", things, "images", "count", "share", "low", "high", "among interpretable"),
        [
            (
                *cells_of(tally.series),
                _ALL if tally.layer is None else tally.layer,
                tally.kind,
                top,
                *(tally.decided, tally.images, tally.hits, tally.share, tally.low, tally.high, _among(tally)),
            )
            for tally in tallies
        ],
    )
    once = [tally for tally in tallies if tally.layer is not None and tally.kind == INTERPRETABLE[0]]
    order = (
        f"A patch is of the first type that one of its {top} best candidates has: concrete before abstract before "
        "global. "
        if things == "patches"
        else f"Each of the {top} best candidates counts by itself. "
    )
    return Finding(
        name=f"types-of-{things}",
        title=f"Types of interpretable {things}",
        note=(
            f"{order}{account(once, things)} The last column is the share among the interpretable {things}, as the "
            "paper shows it; it has no interval of its own. Over all layers an image counts repeatedly, and the "
            "interval takes images for independent."
        ),
        table=table,
        draw=partial(_draw, table, things) if anything(table, "share") else None,
    )


def _among(tally: Tally) -> float | None:
    interpretable = sum(tally.counts[: len(INTERPRETABLE)])
    return tally.hits / interpretable if interpretable else None


@drawing.style()
def _draw(table: Table, things: str) -> "Figure":
    rows = [
        row | {"title": drawing.lens_title(row["lens"])}
        for row in records(table)
        if row["baseline"] is None and row["layer"] != _ALL and row["share"] is not None
    ]
    found = panels(rows, "title")
    figure, axes = canvas(found, x="layer", y=things, across=len({row["lens"] for row in rows}))
    for panel, part in zip(axes, found.values(), strict=True):
        layers = sorted({row["layer"] for row in part})
        step = -(-len(layers) // _LEGIBLE)
        named = [str(layer) if number % step == 0 else "" for number, layer in enumerate(reversed(layers))][::-1]
        drawing.draw_stacks(panel, named, _stacks(part, layers))
        drawing.percent_axis(panel)
        if step > 1:
            for text in list(panel.texts):
                text.remove()
    drawing.name_parts(figure, axes)
    drawing.footnote(figure, f"Percent of all {things}; the rest is unrelated. The table has intervals.")
    return figure


def _stacks(rows: Sequence[dict[str, Any]], layers: Sequence[int]) -> dict[str, tuple[list[float], drawing.Look]]:
    shares = {(row["layer"], row["type"]): row["share"] for row in rows}
    looks = reversed(drawing.shades(len(INTERPRETABLE)))
    return {
        kind: ([shares[layer, kind] for layer in layers], look) for kind, look in zip(INTERPRETABLE, looks, strict=True)
    }
