"""Rows of a study's tables as groups and arrays; means and shares of them that take images for independent."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from patchlens.analysis.finding import Table
from patchlens.evaluation.intervals import Array, clustered
from patchlens.evaluation.statistics import Interval, bootstrap, ratio

__all__ = ["codes", "groups", "mean", "numbers", "own", "records", "share", "top"]


def own(candidates: pa.Table) -> pa.Table:
    """What lenses said themselves: no baselines."""
    return candidates.filter(pc.is_null(candidates["baseline"]))


def top(candidates: pa.Table, k: int) -> pa.Table:
    """The k best candidates of each reading."""
    return candidates.filter(pc.less_equal(candidates["rank"], k))


def groups(table: pa.Table, by: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], pa.Table]]:
    """Rows with the same values in some columns: the values, None for null, and the rows in their order.

    Without columns all rows are one group. Texts come in the order in which they first appear, numbers ascending.
    """
    if not table.num_rows:
        return
    if not by:
        yield (), table
        return
    coded = [codes(table, name) for name in by]
    keys = np.stack([numbers for numbers, _ in coded])
    order = np.lexsort(keys[::-1])
    ranked = keys[:, order]
    starts = [0, *(np.flatnonzero((np.diff(ranked, axis=1) != 0).any(0)) + 1).tolist(), len(order)]
    rows = table.take(pa.array(order))
    for start, end in pairwise(starts):
        found = zip(coded, ranked[:, start].tolist(), strict=True)
        yield tuple(None if code < 0 else values[code] for (_, values), code in found), rows.slice(start, end - start)


def codes(table: pa.Table, name: str) -> tuple[Array, list[Any]]:
    """A column as numbers of its different values, -1 for null, and those values as `groups` orders them."""
    column = table[name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    values = pc.unique(column.drop_null())
    if not pa.types.is_string(values.type):
        values = values.take(pc.sort_indices(values))
    found = pc.fill_null(pc.index_in(column, value_set=values), -1)
    return np.asarray(found.to_numpy()), values.to_pylist()


def numbers(table: pa.Table, name: str) -> Array:
    """A column of numbers as float64, NaN for null."""
    column = table[name].cast(pa.float64())
    return np.asarray(pc.fill_null(column, float("nan")).to_numpy())


def mean(values: Array, images: Array) -> Interval:
    """The mean over all rows, its interval from a bootstrap of images.

    Args:
        values: One per row.
        images: The code of each row's image.
    """
    sums = np.stack([_sums(values, images), _sums(np.ones(len(images)), images)], axis=-1)
    return bootstrap(sums[sums[:, 1] > 0], ratio)


def share(hits: Array, images: Array) -> tuple[float, float, float]:
    """The share of rows that are hits, and the ends of its 95 % interval over images: see `intervals.clustered`.

    Args:
        hits: Booleans, one per row.
        images: The code of each row's image.
    """
    of_images, rows = _sums(hits, images), _sums(np.ones(len(images)), images)
    return float(of_images.sum() / rows.sum()), *clustered(of_images, rows)


def records(table: Table) -> list[dict[str, Any]]:
    """A finding's rows by the names of their columns, to draw from."""
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def _sums(values: Array, images: Array) -> Array:
    return np.bincount(images, weights=values)
