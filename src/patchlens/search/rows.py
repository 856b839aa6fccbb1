"""What can be searched: rows of one width at some layers, read in blocks. A bank is one; these are others."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from patchlens.axes import Int, Num
from patchlens.bank.statistics import Statistics, measure
from patchlens.errors import BankMismatch, OptionError

__all__ = ["JoinedRows", "MemoryRows", "RowSource"]


@runtime_checkable
class RowSource(Protocol):
    """Rows to search: the same number at every layer."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that there are rows of."""

    @property
    def d_model(self) -> int:
        """Width of a row."""

    def __len__(self) -> int:
        """Rows at each layer."""

    def blocks(self, layer: int, size: int) -> Iterator[tuple[int, Num[Tensor, "_block d_model"]]]:
        """The rows of a layer in order, as (first row, at most `size` rows)."""

    def gather(self, layer: int, rows: Int[Tensor, " taken"]) -> Num[Tensor, "taken d_model"]:
        """Some rows of a layer, in the order asked for."""

    def check_unchanged(self) -> None:
        """Raise BankCorrupt if the rows are no longer those that were opened."""

    def statistics(self) -> Statistics:
        """Mean and spread of each dimension at each layer."""

    def labels(self, kind: str) -> pa.Array:
        """One string a row: its "word" (without case) or its "sentence"."""

    def describe(self, rows: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> pa.Table:
        """Words and sentences of rows, in the order asked for."""


class MemoryRows:
    """Rows in memory: an embedding matrix, a handful of vectors in a test.

    Example:
        >>> import torch
        >>> rows = MemoryRows((8,), [torch.eye(3)])
        >>> len(rows), rows.layers, rows.d_model
        (3, (8,), 3)
    """

    def __init__(self, layers: Sequence[int], tensors: Sequence[Num[Tensor, "row d_model"]]) -> None:
        """Take one tensor a layer; nothing is copied.

        Raises:
            OptionError: Not one tensor a layer, a layer twice, or tensors of different shapes.
        """
        if not tensors or len(tensors) != len(layers) or len(set(layers)) != len(layers):
            raise OptionError(
                f"Making rows in memory: found {len(tensors)} tensors for layers {list(layers)}. "
                "Expected one tensor for each layer, each layer once."
            )
        if len(shapes := {tuple(tensor.shape) for tensor in tensors}) > 1:
            raise OptionError(
                f"Making rows in memory: found tensors of shapes {sorted(shapes)}. Expected one shape at all layers."
            )
        self._tensors = dict(zip(layers, tensors, strict=True))
        self._rows, self._d_model = tensors[0].shape

    def __len__(self) -> int:
        """Rows at each layer."""
        return self._rows

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that there are rows of, in the order given."""
        return tuple(self._tensors)

    @property
    def d_model(self) -> int:
        """Width of a row."""
        return self._d_model

    def vectors(self, layer: int) -> Num[Tensor, "row d_model"]:
        """All rows of a layer.

        Raises:
            OptionError: There are none of this layer.
        """
        if layer not in self._tensors:
            raise OptionError(f"There are no rows of layer {layer}, only of {', '.join(map(str, self.layers))}.")
        return self._tensors[layer]

    def blocks(self, layer: int, size: int) -> Iterator[tuple[int, Num[Tensor, "_block d_model"]]]:
        """The rows of a layer in order, as (first row, at most `size` rows), without copying."""
        rows = self.vectors(layer)
        for start in range(0, len(rows), size):
            yield start, rows[start : start + size]

    def gather(self, layer: int, rows: Int[Tensor, " taken"]) -> Num[Tensor, "taken d_model"]:
        """Some rows of a layer, copied, in the order asked for."""
        return self.vectors(layer)[rows]

    def check_unchanged(self) -> None:
        """Nothing to check: who changes a tensor that is searched knows of it."""

    def statistics(self) -> Statistics:
        """Mean and spread of each dimension at each layer."""
        return measure(self)

    def labels(self, kind: str) -> pa.Array:
        """Refuse: these rows are numbers only."""
        raise OptionError(
            f"Searching rows in memory for different {kind}s: they have no words or sentences. Search a bank."
        )

    def describe(self, rows: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> pa.Table:
        """Refuse: these rows are numbers only."""
        raise OptionError("Rows in memory have no words or sentences. Search a bank, or use the numbers of the rows.")


class JoinedRows:
    """Several banks as one: the rows of the first, then those of the second, and so on, at the layers that all have.

    Example:
        >>> parts = MemoryRows((1, 2), [torch.eye(3)] * 2), MemoryRows((2, 3), [torch.eye(3)] * 2)
        >>> joined = JoinedRows(parts)
        >>> len(joined), joined.layers
        (6, (2,))
    """

    def __init__(self, sources: Sequence[RowSource]) -> None:
        """Take the banks; nothing is read.

        Raises:
            OptionError: No bank at all, or no layer that all of them have.
            BankMismatch: They differ in width.
        """
        if not sources:
            raise OptionError("Searching several banks: none was given. Give at least one.")
        if len(widths := {source.d_model for source in sources}) > 1:
            raise BankMismatch(
                f"Searching several banks: their rows are {', '.join(map(str, sorted(widths)))} dimensions wide. "
                "Expected banks of one model."
            )
        self.sources = tuple(sources)
        self._starts = [0, *accumulate(map(len, sources))]
        common = set.intersection(*(set(source.layers) for source in sources))
        if not common:
            layers = "; ".join(", ".join(map(str, source.layers)) for source in sources)
            raise OptionError(f"Searching several banks: they have no layer in common ({layers}). Choose others.")
        self.layers = tuple(sorted(common))

    def __len__(self) -> int:
        """Rows at each layer."""
        return self._starts[-1]

    @property
    def d_model(self) -> int:
        """Width of a row."""
        return self.sources[0].d_model

    def place(self, rows: Int[Tensor, "*any"]) -> tuple[Int[Tensor, "*any"], Int[Tensor, "*any"]]:
        """Which bank each row is in, counted from 0, and its number there."""
        starts = torch.tensor(self._starts)
        which = torch.searchsorted(starts, rows, right=True) - 1
        return which, rows - starts[which]

    def blocks(self, layer: int, size: int) -> Iterator[tuple[int, Num[Tensor, "_block d_model"]]]:
        """The rows of a layer in order, as (first row, at most `size` rows), each block of one bank."""
        for first, source in zip(self._starts, self.sources, strict=False):
            for start, block in source.blocks(layer, size):
                yield first + start, block

    def gather(self, layer: int, rows: Int[Tensor, " taken"]) -> Num[Tensor, "taken d_model"]:
        """Some rows of a layer, in the order asked for; in float64 where the banks store different types."""
        which, at = self.place(rows)
        parts = [source.gather(layer, at[which == number]) for number, source in enumerate(self.sources)]
        dtypes = {part.dtype for part in parts}
        dtype = dtypes.pop() if len(dtypes) == 1 else torch.float64
        taken = torch.empty(len(rows), self.d_model, dtype=dtype)
        for number, part in enumerate(parts):
            taken[which == number] = part.to(dtype)
        return taken

    def check_unchanged(self) -> None:
        """Raise BankCorrupt if one of the banks is no longer what was opened."""
        for source in self.sources:
            source.check_unchanged()

    def statistics(self) -> Statistics:
        """Mean and spread of each dimension at each layer, over all rows."""
        return Statistics.joined([source.statistics().of(self.layers) for source in self.sources])

    def labels(self, kind: str) -> pa.Array:
        """One string a row: its "word" (without case) or its "sentence"."""
        return pa.concat_arrays([source.labels(kind) for source in self.sources])

    def describe(self, rows: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> pa.Table:
        """Words and sentences of rows, in the order asked for, and the number of their bank."""
        which, at = (part.numpy() for part in self.place(torch.from_numpy(rows)))
        parts = [source.describe(at[which == number]) for number, source in enumerate(self.sources)]
        banks = pa.array(np.sort(which, kind="stable"))
        together = pa.concat_tables(parts).add_column(0, "bank", banks)
        back = np.empty_like(rows)
        back[np.argsort(which, kind="stable")] = np.arange(len(rows))
        return together.take(pa.array(back))
