"""What can be searched: rows of one width at some layers, read in blocks. A bank is one; this is another."""

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from patchlens.axes import Num
from patchlens.errors import OptionError

__all__ = ["MemoryRows", "RowSource"]


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

    def vectors(self, layer: int) -> Num[Tensor, "row d_model"]:
        """All rows of a layer."""

    def blocks(self, layer: int, size: int) -> Iterator[tuple[int, Num[Tensor, "_block d_model"]]]:
        """The rows of a layer in order, as (first row, at most `size` rows)."""


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
