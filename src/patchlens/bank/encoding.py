"""What rows are stored as: five types, and how far rounding to each can move a row. Knows no files."""

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from patchlens.axes import Float, Int, Num

__all__ = ["DTYPES", "Encoded", "StoredType", "decode", "empty", "encode", "row_bytes", "select"]


@dataclass(frozen=True)
class StoredType:
    """What vectors are stored as. An entry x is stored with an error of at most `relative`·|x| + `absolute`·scale."""

    dtype: torch.dtype
    """The type of an entry."""
    code: str
    """safetensors' name for it."""
    relative: float
    """Half the distance of neighbouring numbers, over the number."""
    absolute: float
    """Half the distance of neighbouring numbers next to zero."""
    largest: float | None = None
    """What the largest entry of each row becomes; None for types without a scale a row."""

    def error(self, d_model: int, scales: Float[Tensor, " row"] | None) -> Float[Tensor, " row"]:
        """How far rounding can move a row of length 1, as a distance.

        The triangle inequality over the entries' errors; what float32 itself adds (the scale, the quotient, the row's
        own length) stays below 1e-5.

        Args:
            d_model: Width of a row.
            scales: The rows' scales; None for types without, which gives one number for all rows.
        """
        if self.largest is None or scales is None:
            return torch.tensor([self.relative + sqrt(d_model) * self.absolute + 1e-5])
        # No entry of a unit row is above 1, so no scale of a sound row is above this.
        return self.relative + sqrt(d_model) * self.absolute * scales.clamp(max=1 / self.largest) + 1e-5


DTYPES: dict[str, StoredType] = {
    "float16": StoredType(torch.float16, "F16", 2.0**-11, 2.0**-25),
    "bfloat16": StoredType(torch.bfloat16, "BF16", 2.0**-8, 2.0**-134),
    "float32": StoredType(torch.float32, "F32", 2.0**-24, 2.0**-150),
    "int8": StoredType(torch.int8, "I8", 0.0, 0.5, largest=127.0),
    "float8_e4m3fn": StoredType(torch.float8_e4m3fn, "F8_E4M3", 2.0**-4, 2.0**-10, largest=448.0),
}
"""The stored types, by the name in bank.json."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """Rows in a stored type. A row is its scale times its vector; without scales, the vector."""

    vectors: Num[Tensor, "row d_model"]
    """In the stored type."""
    scales: Float[Tensor, " row"] | None
    """float32; None for the types of 16 and more bits."""

    def __len__(self) -> int:
        """Rows."""
        return len(self.vectors)

    def __getitem__(self, rows: slice) -> "Encoded":
        """Consecutive rows, without copying."""
        return Encoded(self.vectors[rows], None if self.scales is None else self.scales[rows])

    def taken(self, rows: Int[Tensor, " taken"]) -> "Encoded":
        """Some rows, copied, in the order asked for."""
        return Encoded(select(self.vectors, rows), None if self.scales is None else self.scales[rows])


def encode(directions: Float[Tensor, "row d_model"], dtype: str) -> Encoded:
    """Round unit directions to a stored type, each entry to the nearest number, ties to even.

    For the 8-bit types a row is first divided by its scale, which makes its largest entry ±127 or ±448: so each row
    uses the whole range, and 0 stays 0.

    Args:
        directions: float32, finite, of length 1, on any device.
        dtype: A key of `DTYPES`.

    Returns:
        On the same device.
    """
    stored = DTYPES[dtype]
    if stored.largest is None:
        return Encoded(directions.to(stored.dtype), None)
    scales = directions.abs().amax(dim=-1) / stored.largest
    spread = directions / scales[:, None]
    return Encoded((spread.round_() if stored.dtype == torch.int8 else spread).to(stored.dtype), scales)


def decode(encoded: Encoded) -> Float[Tensor, "row d_model"]:
    """The rows in float32, of length 1: their directions, which a scale does not change."""
    return torch.nn.functional.normalize(encoded.vectors.float(), dim=-1)


def select(vectors: Num[Tensor, "row d_model"], rows: Int[Tensor, " taken"]) -> Num[Tensor, "taken d_model"]:
    """Some rows, copied, in the order asked for."""
    # As bytes: torch indexes few of the 8-bit types everywhere, and whole rows are copied fastest.
    return vectors.contiguous().view(torch.uint8).index_select(0, rows.to(vectors.device)).view(vectors.dtype)


def empty(rows: int, d_model: int, dtype: str) -> Encoded:
    """Memory for rows of a stored type; what it holds is undefined."""
    stored = DTYPES[dtype]
    return Encoded(
        torch.empty(rows, d_model, dtype=stored.dtype), None if stored.largest is None else torch.empty(rows)
    )


def row_bytes(d_model: int, dtype: str) -> int:
    """What one row of one layer takes on the disk."""
    stored = DTYPES[dtype]
    return d_model * stored.dtype.itemsize + (0 if stored.largest is None else torch.float32.itemsize)
