"""Mean and spread of each dimension of a bank's rows, layer by layer: what centring and standardising need.

Kept beside the bank in `statistics.safetensors`, which is not part of the bank: it is measured again when it is
missing or belongs to other rows.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from patchlens.axes import Float, Num
from patchlens.errors import NonFiniteStates, OptionError
from patchlens.progress import Report, silent
from patchlens.storage import replacing

__all__ = ["FILE", "Layer", "Statistics", "load", "measure", "store"]

FILE = "statistics.safetensors"
_VERSION = "1"
_BLOCK_BYTES = 16 << 20  # of a block in float64


@runtime_checkable
class _Rows(Protocol):
    """The part of a row source that is needed here."""

    @property
    def layers(self) -> tuple[int, ...]: ...
    @property
    def d_model(self) -> int: ...
    def __len__(self) -> int: ...
    def blocks(self, layer: int, size: int) -> Iterator[tuple[int, Num[Tensor, "_block d_model"]]]: ...


@dataclass(frozen=True, eq=False)
class Layer:
    """The rows of one layer, each taken at length 1."""

    mean: Float[Tensor, " d_model"]
    """float64. Its squared length is the mean cosine of two rows drawn at random, with replacement."""
    std: Float[Tensor, " d_model"]
    """Standard deviation over the rows, float64."""

    @property
    def mean_cosine(self) -> float:
        """Of two rows drawn at random: 0 where directions fill the space, 1 where all rows point the same way."""
        return float(self.mean @ self.mean)

    @property
    def shares(self) -> Float[Tensor, " d_model"]:
        """The part of the rows' squared length in each dimension; they add up to 1 (without rows of zeros)."""
        return self.mean**2 + self.std**2


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and standard deviation of each dimension, by layer."""

    rows: int
    """At each layer."""
    layers: dict[int, Layer]
    """Ascending."""

    def of(self, layers: Iterable[int]) -> "Statistics":
        """Of some layers only."""
        return Statistics(self.rows, {layer: self.layers[layer] for layer in layers})

    @classmethod
    def joined(cls, parts: Sequence["Statistics"]) -> "Statistics":
        """What would be measured over the rows of all parts; they have the same layers."""
        rows = sum(part.rows for part in parts)
        together = {}
        for layer in parts[0].layers:
            means = torch.stack([part.layers[layer].mean for part in parts])
            squares = torch.stack([part.layers[layer].shares for part in parts])
            weights = torch.tensor([part.rows / rows for part in parts], dtype=torch.float64)
            mean = weights @ means
            together[layer] = Layer(mean, (weights @ squares - mean**2).clamp_(min=0).sqrt())
        return cls(rows, together)


def measure(rows: _Rows, report: Report = silent) -> Statistics:
    """Read all rows once.

    Raises:
        NonFiniteStates: A row holds NaN or infinity.
        OptionError: There are no rows.

    Cost:
        One pass over the rows; 16 MB beside the block.
    """
    if not len(rows):
        raise OptionError("Measuring the mean of rows: there are none. Give at least one.")
    size = max(1, _BLOCK_BYTES // (8 * rows.d_model))
    layers, total = {}, len(rows) * len(rows.layers)
    for number, layer in enumerate(sorted(rows.layers)):
        origin: Tensor | None = None
        sums = torch.zeros(2, rows.d_model, dtype=torch.float64)
        for start, block in rows.blocks(layer, size):
            units = _units(block, layer, start)
            # Sums about a point among the rows: the mean is far from 0, and squares about 0 would cancel.
            origin = units.mean(dim=0) if origin is None else origin
            away = units - origin
            sums += torch.stack([away.sum(dim=0), (away**2).sum(dim=0)])
            report("statistics", number * len(rows) + start + len(block), total)
        assert origin is not None
        shift, square = sums / len(rows)
        layers[layer] = Layer(origin + shift, (square - shift**2).clamp_(min=0).sqrt())
    return Statistics(len(rows), layers)


def store(statistics: Statistics, folder: Path, of: str) -> None:
    """Write them beside a bank.

    Args:
        statistics: What was measured.
        folder: The bank's.
        of: The hash of its manifest.

    Raises:
        StorageError: The folder may not be written to.
    """
    tensors: dict[str, Tensor] = {}
    for layer, found in statistics.layers.items():
        tensors |= {f"layer_{layer:02d}.mean": found.mean, f"layer_{layer:02d}.std": found.std}
    about = {"version": _VERSION, "of": of, "rows": str(statistics.rows), "layers": json.dumps([*statistics.layers])}
    with replacing(folder / FILE) as temporary:
        temporary.write_bytes(save(tensors, about))


def load(folder: Path, of: str) -> Statistics | None:
    """What is stored beside a bank; None if nothing is, or not of these rows."""
    path = folder / FILE
    if not os.path.isfile(path):
        return None
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            if (about.get("version"), about.get("of")) != (_VERSION, of):
                return None
            layers = {
                layer: Layer(*(file.get_tensor(f"layer_{layer:02d}.{name}") for name in ("mean", "std")))
                for layer in json.loads(about["layers"])
            }
            return Statistics(int(about["rows"]), layers)
    except (SafetensorError, OSError, KeyError, ValueError):
        return None  # cut short or edited: measured again


def _units(block: Num[Tensor, "row d_model"], layer: int, start: int) -> Float[Tensor, "row d_model"]:
    rows = block.double()
    if not torch.isfinite(rows).all():
        row = start + int((~torch.isfinite(rows).all(dim=1)).nonzero()[0])
        raise NonFiniteStates(
            f"Measuring the rows of layer {layer}: row {row:,} holds NaN or infinity. Check the bank with "
            "'patchlens bank verify', or build it again."
        )
    largest = rows.abs().amax(dim=1, keepdim=True)
    return torch.nn.functional.normalize(rows / largest.where(largest > 0, 1.0), dim=1)
