"""How much two readings of the same patches have in common: of two banks, two runs, two models.

It compares texts, and knows no similarity, so banks of different models can be compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from patchlens.analysis import drawing
from patchlens.analysis.drawing import Line
from patchlens.analysis.finding import Cell, Finding, Table
from patchlens.analysis.rows import codes, groups, mean, own, records, top
from patchlens.errors import OptionError, StudyError
from patchlens.evaluation.intervals import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["OF", "overlap", "overlap_rows"]

OF = ("words", "sentences", "contexts")
"""What is compared: words whatever their case, sentences, or the same word at the same place of the same sentence."""

COLUMNS = ("of", "layer", "images", "patches", "overlap", "low", "high", "chance")
"""Of `overlap_rows`."""

_COLUMN_OF = {"words": "word", "sentences": "sentence", "contexts": "sentence"}
_NEEDED = ("image", "tile", "row", "column", "position", "layer", "rank", "word", "sentence", "word_start")


def overlap(
    first: pa.Table,
    second: pa.Table,
    *,
    names: tuple[str, str],
    k: int = 5,
    apart: Sequence[str] = ("lens",),
) -> Finding:
    """Count what the top k of two readings of the same patch at the same layer have in common, per layer.

    A candidate that occurs twice in both counts twice, so readings that say the same overlap in all k. Chance is the
    mean overlap of a patch's first reading with the second reading of every patch of every other image at that layer.

    Args:
        first: With the columns of `CANDIDATES`; baselines are left out.
        second: The same of another bank, run or model, on the same images.
        names: What the two are called.
        k: Candidates of each reading that count.
        apart: Columns that must agree for readings to be compared, each of their values with rows of its own: "lens",
            "model", both or none.

    Raises:
        StudyError: They have no patch and layer in common, or a patch has several readings at a layer.
        OptionError: `apart` names another column.
    """
    if wrong := [name for name in apart if name not in ("model", "lens")]:
        raise OptionError(f"Readings were to be kept apart by {wrong[0]!r}. Expected 'model', 'lens', both or none.")
    others = dict(groups(own(second), apart))
    rows: list[tuple[Cell, ...]] = []
    for key, part in groups(own(first), apart):
        if key in others:
            by = dict(zip(apart, key, strict=True))
            rows += [(*names, by.get("model"), by.get("lens"), *row) for row in overlap_rows(part, others[key], k)]
    if not rows:
        raise StudyError(
            f"{names[0]} and {names[1]} have no patch in common that was read at the same layer"
            f"{' by the same ' + ' and '.join(apart) if apart else ''}. Compare studies of the same images and layers, "
            "with the same sample."
        )
    table = Table.of(("first", "second", "model", "lens", *COLUMNS), rows)
    return Finding(
        name="overlap",
        title=f"Overlap of “{names[0]}” and “{names[1]}”",
        note=(
            f"Of the top {k} candidates of a patch under {names[0]}, how many are also among those under {names[1]}, "
            "on average: the same words whatever their case, the same sentences, and the same words in the same "
            "sentences (contexts). Intervals are from resampling images. Chance is the overlap with readings of other "
            "images; words that are said everywhere raise both."
        ),
        table=table,
        draw=partial(_draw, table, k),
    )


def overlap_rows(first: pa.Table, second: pa.Table, k: int, *, kinds: Sequence[str] = OF) -> list[tuple[Cell, ...]]:
    """The rows of `overlap`, columns `COLUMNS`, of two tables that each have one reading per patch and layer.

    What either table lacks, such as the sentences of LogitLens, is not compared.

    Raises:
        StudyError: A patch has several readings at a layer.
    """
    rows: list[tuple[Cell, ...]] = []
    for kind in kinds:
        column = _COLUMN_OF[kind]
        known = [top(part.filter(pc.is_valid(part[column])), k) for part in (first, second)]
        both = _Both.of(pa.concat_tables([part.select(_NEEDED) for part in known]), known[0].num_rows, kind)
        rows += both.rows(kind)
    return rows


@dataclass(frozen=True, eq=False)
class _Both:
    """Candidates of two sets of readings, those of cells that both have; a cell is a patch at a layer."""

    second: Array
    """Whether a candidate is of the second set."""
    cell: Array
    """Number of its cell."""
    item: Array
    """Number of what it says and of how often its reading has said that before: different ones within a reading."""
    layer: Array
    """The layer of each cell."""
    image: Array
    """The number of each cell's image."""

    @classmethod
    def of(cls, table: pa.Table, first: int, kind: str) -> "_Both":
        """Of a table whose `first` rows are the first set."""
        second = np.arange(table.num_rows) >= first
        image, row = codes(table, "image")[0], codes(table, "row")[0]
        inside = (codes(table, name)[0] for name in ("tile", "row", "column"))
        # Tokens without a place in a grid are told by where they stand in the sequence.
        position = np.where(row < 0, codes(table, "position")[0], -1)
        layer = table["layer"].to_numpy()
        cell = _numbered(layer, image, *inside, position)
        _check(table, second, cell)
        text = _texts(table, kind)
        item = _numbered(text, _times_before(second, cell, text))
        shared = np.isin(cell, np.intersect1d(cell[~second], cell[second]))
        _, one_of_each, cell = np.unique(cell[shared], return_index=True, return_inverse=True)
        return cls(second[shared], cell, item[shared], layer[shared][one_of_each], image[shared][one_of_each])

    def rows(self, kind: str) -> list[tuple[Cell, ...]]:
        """One row per layer."""
        key = self.cell * (self.item.max(initial=0) + 1) + self.item
        common = np.isin(key, key[self.second]) & ~self.second
        overlaps = np.bincount(self.cell[common], minlength=len(self.layer))
        rows: list[tuple[Cell, ...]] = []
        for layer in np.unique(self.layer).tolist():
            here = self.layer == layer
            found = mean(overlaps[here], self.image[here])
            images, patches = len(np.unique(self.image[here])), int(here.sum())
            rows.append((kind, layer, images, patches, found.value, found.low, found.high, self._chance(layer)))
        return rows

    def _chance(self, layer: int) -> float | None:
        """The mean overlap of readings of different images; None with one image.

        No pair of readings is looked at: a candidate of the first set is in common with as many readings of the second
        as have its item, less those of its own image.
        """
        image = self.image[self.cell]
        one, other = (here & (self.layer[self.cell] == layer) for here in (~self.second, self.second))
        everywhere = np.bincount(self.item[other], minlength=self.item.max() + 1)
        (pairs, which), counts = np.unique(np.stack([image[other], self.item[other]]), axis=1, return_counts=True)
        of_image = dict(zip(zip(pairs.tolist(), which.tolist(), strict=True), counts.tolist(), strict=True))
        asked = zip(image[one].tolist(), self.item[one].tolist(), strict=True)
        common = everywhere[self.item[one]].sum() - sum(of_image.get(pair, 0) for pair in asked)
        patches = np.bincount(self.image[self.layer == layer])
        pairs_of_readings = patches.sum() ** 2 - (patches**2).sum()
        return float(common / pairs_of_readings) if pairs_of_readings else None


def _numbered(*columns: Array) -> Array:
    """The number of each row's combination of values, among the different ones in their order."""
    number = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:  # one at a time: sorting rows as a whole takes ten times as long
        _, dense = np.unique(column, return_inverse=True)
        _, number = np.unique(number * (dense.max(initial=0) + 1) + dense, return_inverse=True)
    return number


def _times_before(second: Array, cell: Array, text: Array) -> Array:
    """How often each candidate's reading has said the same before."""
    order = np.lexsort((text, cell, second))
    sorted_rows = np.stack([second, cell, text])[:, order]
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (np.diff(sorted_rows, axis=1) != 0).any(0)
    starts = np.flatnonzero(fresh)
    before = np.empty(len(order), dtype=np.int64)
    before[order] = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
    return before


def _texts(table: pa.Table, kind: str) -> Array:
    """What each candidate says, as a number."""
    found, values = codes(table, _COLUMN_OF[kind])
    if kind == "words":
        folded = {word: number for number, word in enumerate(dict.fromkeys(value.casefold() for value in values))}
        return np.array([folded[value.casefold()] for value in values], dtype=np.int64)[found]
    return found if kind == "sentences" else _numbered(found, codes(table, "word_start")[0])


def _check(table: pa.Table, second: Array, cell: Array) -> None:
    rank = table["rank"].to_numpy()
    which = _numbered(second, cell, rank)
    if len(twice := np.flatnonzero(np.bincount(which, minlength=1)[which] > 1)):
        row = table.slice(int(twice[0]), 1).to_pylist()[0]
        raise StudyError(
            f"The readings to compare have several candidates of rank {row['rank']} for one patch of {row['image']} at "
            f"layer {row['layer']}: they are of several lenses or models. Give those of one, or keep them apart."
        )


@drawing.style()
def _draw(table: Table, k: int) -> "Figure":
    rows = records(table)
    of_panels: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        parts = (row["model"], row["lens"] and drawing.lens_title(row["lens"]))
        of_panels.setdefault(": ".join(filter(None, parts)) or f"{row['first']}, {row['second']}", []).append(row)
    figure, panels = drawing.figure_of(list(of_panels), x="layer", y=f"candidates in common, of {k}")
    highest = max(value for row in rows for value in (row["overlap"], row["high"], row["chance"]) if value is not None)
    for axes, part in zip(panels, of_panels.values(), strict=True):
        axes.set_ylim(0, 1.08 * highest or 1.0)
        drawing.layer_axis(axes, sorted({row["layer"] for row in part}))
        lines = []
        for of, look in zip(OF, drawing.lens_looks([f"of {of}" for of in OF]).values(), strict=True):
            those = [row for row in part if row["of"] == of]
            x = [row["layer"] for row in those]
            low, high = [row["low"] for row in those], [row["high"] for row in those]
            lines.append(Line(of, x, [row["overlap"] for row in those], look, low, high))
            if of == "words":
                known = [row for row in those if row["chance"] is not None]
                chance = [row["chance"] for row in known]
                lines.append(Line("words, by chance", [row["layer"] for row in known], chance, look, dashed=True))
        drawing.draw_lines(axes, [line for line in lines if line.x])
    return figure
