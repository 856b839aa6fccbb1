"""The mid-layer leap: from which contextual layers the nearest words come, for visual tokens at each layer.

It looks at layers and images alone, and at no word.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from patchlens.analysis import drawing
from patchlens.analysis.finding import Cell, Finding, Table
from patchlens.analysis.rows import codes, groups, own, records, top
from patchlens.errors import OptionError, StudyError
from patchlens.evaluation.intervals import Array, clustered
from patchlens.evaluation.statistics import holm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["leap", "leap_peaks"]

_COLUMNS = (
    *("model", "lens", "top", "visual layer", "contextual layer", "images", "candidates", "count"),
    *("share", "low", "high", "chance", "against chance", "most frequent", "p", "p (Holm)"),
)
_OF_PEAKS = (
    *("model", "lens", "top", "visual layer", "contextual layer", "share", "low", "high", "chance", "p", "p (Holm)"),
)


def leap(
    candidates: pa.Table,
    *,
    k: int = 5,
    layers: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    draws: int = 5000,
    seed: int = 0,
) -> Finding:
    """Count the contextual layers of the candidates, per visual layer, among the top k and for the nearest alone.

    A random row of a bank stands at all its layers, so chance gives each layer the same share. A cell is "above" or
    "below" chance when its 95 % interval over images does not contain that. `p` is of the whole visual layer: how often
    its largest departure from chance would be reached if the departures of each image were as likely to have the
    opposite sign; beside it as adjusted by Holm over the visual layers of a model, lens and top.

    Args:
        candidates: With the columns of `CANDIDATES`; lenses without contextual layers are left out.
        k: Candidates of each reading that count.
        layers: The contextual layers of the bank, or those of each model's bank. Where they are not said, they are
            those that any candidate came from, which misses a layer that was never nearest.
        draws: Random signs behind `p`, which is at least 1 / (draws + 1).
        seed: Chooses them.

    Raises:
        StudyError: No candidate has a contextual layer.
        OptionError: A candidate came from a layer that is not among those named, or there are no draws.

    Reference:
        arXiv 2602.00462, Figure 4, shows the shares of nine models. The test is the score bootstrap of Kline and Santos
        (2012), Journal of Econometric Methods 1, 23-41, with the image for a cluster, and the largest of its
        studentized sums.
    """
    if draws < 1:
        raise OptionError(f"The test of the mid-layer leap was asked for {draws} draws. It needs at least one.")
    said = own(candidates.filter(pc.is_valid(candidates["context_layer"])))
    if not said.num_rows:
        raise StudyError(
            f"None of {candidates.num_rows:,} candidates has a contextual layer, so there is no mid-layer leap to look "
            "for. Run the study with LatentLens among its lenses."
        )
    rows: list[tuple[Cell, ...]] = []
    for (model, lens), part in groups(said, ("model", "lens")):
        contextual = _contextual(part, layers.get(model) if isinstance(layers, Mapping) else layers)
        for first in (k, 1) if k > 1 else (1,):
            rows += _rows((model, lens, first), top(part, first), contextual, draws, seed)
    table = Table.of(_COLUMNS, rows)
    return Finding(
        name="mid-layer-leap",
        title="Mid-layer leap: the contextual layers of the nearest words",
        note=(
            f"The share of each contextual layer among the top {k} candidates of visual tokens, and among the nearest "
            f"alone, over {len(pc.unique(said['image']))} images. Intervals and p values take images, not tokens, for "
            "independent. Chance is an equal share for every contextual layer. A layer may also be near because states "
            "there lie close together: the shares say where neighbors are found, not that both layers do the same."
        ),
        table=table,
        draw=partial(_draw, table),
    )


def leap_peaks(found: Finding) -> Finding:
    """The most frequent contextual layer of each visual layer, from what `leap` found; a table alone."""
    cells = zip(*(found.table.column(name) for name in (*_OF_PEAKS, "most frequent")), strict=True)
    return Finding(
        name="mid-layer-leap-peaks",
        title="The most frequent contextual layer of each visual layer",
        note="Of layers with equal counts the lower one is named. The p values are of the visual layer as a whole.",
        table=Table.of(_OF_PEAKS, [cell for *cell, most_frequent in cells if most_frequent]),
    )


def _contextual(part: pa.Table, layers: Sequence[int] | None) -> list[int]:
    found = codes(part, "context_layer")[1]
    if layers is None:
        return found
    if missing := [layer for layer in found if layer not in layers]:
        raise OptionError(
            f"Candidates came from the contextual layer {missing[0]}, which is not among those named "
            f"({', '.join(map(str, layers))}). Name all layers of the bank."
        )
    return sorted(set(layers))


def _rows(key: tuple[Any, ...], part: pa.Table, contextual: list[int], draws: int, seed: int) -> list[tuple[Cell, ...]]:
    """The rows of one model, lens and top."""
    of_layers = {layer: _by_image(those, contextual) for (layer,), those in groups(part, ("layer",))}
    p_values = {layer: p for layer, counts in of_layers.items() if (p := _p(counts, draws, seed)) is not None}
    adjusted = dict(zip(p_values, holm(p_values.values()), strict=True))
    chance = 1 / len(contextual)
    rows: list[tuple[Cell, ...]] = []
    for visual, counts in of_layers.items():
        totals, trials = counts.sum(0), counts.sum(1)
        for number, layer in enumerate(contextual):
            low, high = clustered(counts[:, number], trials)
            shown = float(totals[number] / trials.sum())
            against = "above" if low > chance else "below" if high < chance else "not told apart"
            about = (layer, len(counts), int(trials.sum()), int(totals[number]), shown, low, high, chance, against)
            peak = number == int(np.argmax(totals))
            rows.append((*key, visual, *about, peak, p_values.get(visual), adjusted.get(visual)))
    return rows


def _by_image(part: pa.Table, contextual: list[int]) -> Array:
    """Candidates of each contextual layer, [image, contextual layer]."""
    images, names = codes(part, "image")
    counts = np.zeros((len(names), len(contextual)))
    np.add.at(counts, (images, np.searchsorted(contextual, part["context_layer"].to_numpy())), 1)
    return counts


def _p(counts: Array, draws: int, seed: int) -> float | None:
    """How often the largest departure from equal shares is reached when images choose their departure's sign.

    Args:
        counts: [image, contextual layer].
        draws: Random signs.
        seed: Chooses them.

    Returns:
        None with one contextual layer, where nothing can depart.
    """
    departures = counts - counts.sum(1, keepdims=True) / counts.shape[1]
    spread = np.sqrt((departures**2).sum(0))
    if not (spread > 0).any():
        return None
    units = departures[:, spread > 0] / spread[spread > 0]
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(draws, len(units)))
    largest, reached = np.abs(units.sum(0)).max(), np.abs(signs @ units).max(1)
    return float((1 + (reached >= largest - 1e-9).sum()) / (1 + draws))


@drawing.style()
def _draw(table: Table) -> "Figure":
    rows = records(table)
    cells = [row for row in rows if row["top"] == max(row["top"] for row in rows)]
    of_panels: dict[str, list[dict[str, Any]]] = {}
    for cell in cells:
        of_panels.setdefault(f"{cell['model']}: {drawing.lens_title(cell['lens'])}", []).append(cell)
    figure, panels = drawing.figure_of(
        list(of_panels), x="visual layer", y="contextual layer", height=3.0, shared=False
    )
    for axes, part in zip(panels, of_panels.values(), strict=True):
        visual = sorted({cell["visual layer"] for cell in part})
        contextual = sorted({cell["contextual layer"] for cell in part})
        at = {(contextual.index(cell["contextual layer"]), visual.index(cell["visual layer"])): cell for cell in part}
        drawing.draw_heat_map(
            axes,
            {place: cell["share"] for place, cell in at.items()},
            rows=[str(layer) for layer in contextual],
            columns=[str(layer) for layer in visual],
            texts={place: _percent(cell) for place, cell in at.items()},
            most=max(cell["share"] for cell in cells),
            bold=[place for place, cell in at.items() if cell["against chance"] == "above"],
            framed=[place for place, cell in at.items() if cell["contextual layer"] == cell["visual layer"]],
        )
    drawing.footnote(
        figure,
        f"Percent of the top {cells[0]['top']} candidates of a visual layer. Bold: more than chance; plain: less; in "
        "brackets: not told apart from it (95 % intervals over images). Frame: the same layer.",
    )
    return figure


def _percent(cell: dict[str, Any]) -> str:
    text = f"{100 * cell['share']:.0f}"
    return f"({text})" if cell["against chance"] == "not told apart" else text
