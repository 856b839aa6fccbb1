"""The space in which cosines are taken: the stored one, or one in which the bank's mean and spread are removed.

Where a few huge dimensions or a common mean dominate hidden states, raw cosines say little: all rows are near all
others. Centring takes the mean of the bank's rows (at length 1, layer by layer) off rows and queries alike;
standardising then divides each dimension by its standard deviation.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from patchlens.axes import Float
from patchlens.bank.statistics import Statistics
from patchlens.errors import OptionError
from patchlens.search.score import directions, tree_sum

__all__ = ["SPACES", "Space", "make_space"]

SPACES = ("raw", "centred", "standardised")


@dataclass(frozen=True, eq=False)
class Space:
    """Directions less a mean, each dimension times a weight."""

    means: Mapping[int, Float[Tensor, " d_model"]]
    """By layer, float64."""
    weights: Mapping[int, Float[Tensor, " d_model"]]
    """By layer, float64; 0 for a dimension that never changes."""

    def exact(self, layer: int, units: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        """Directions in float64; zero where nothing is left."""
        moved = (units - self.means[layer]) * self.weights[layer]
        # What is left of a row that is the mean itself is rounding, and points nowhere.
        size = (units.abs() + self.means[layer].abs()) * self.weights[layer]
        noise = 2.0**-48 * tree_sum(size * size).sqrt()
        nothing = tree_sum(moved * moved).sqrt() <= noise
        return directions(moved.where(~nothing[:, None], 0.0))

    def rough(
        self, layer: int, units: Float[Tensor, "row d_model"], error: float
    ) -> tuple[Float[Tensor, "row d_model"], Float[Tensor, " row"]]:
        """Directions in float32, and how far each may be from the exact one.

        Args:
            layer: The rows'.
            units: float32, of length 1; changed in place.
            error: How far their lengths may be from 1, and each entry from the exact one over that one.
        """
        mean, weight = (part[layer].to(units.device, torch.float32) for part in (self.means, self.weights))
        pull = float(torch.linalg.vector_norm(mean * weight))
        moved = units.sub_(mean).mul_(weight)
        lengths = torch.linalg.vector_norm(moved, dim=1)
        # Entries err by a few units of rounding of |unit| + |mean|, times the weight; the triangle inequality for the
        # norm of that, and twice it for what dividing by a length that errs adds.
        off = (error + 2.0**-22) * (lengths + 2 * pull)
        summing = (units.shape[1] / 2 + 8) * 2.0**-24
        moved.mul_(lengths.where(lengths > 0, torch.inf).reciprocal_()[:, None])
        return moved, (2.02 * off / lengths).nan_to_num(nan=torch.inf) + summing


def make_space(name: str, statistics: Callable[[], Statistics]) -> Space | None:
    """The space of a name.

    Args:
        name: One of `SPACES`.
        statistics: Measures the rows; not called for the raw space.

    Returns:
        None for the raw space, where nothing moves.

    Raises:
        OptionError: There is no such space.
    """
    if name not in SPACES:
        raise OptionError(f"Comparing in the space {name!r}: expected one of {', '.join(SPACES)}.")
    if name == "raw":
        return None
    layers = statistics().layers.items()
    if name == "centred":
        weights = {layer: torch.ones_like(found.std) for layer, found in layers}
    else:
        # Below this a dimension is constant up to rounding; its noise must not become the loudest voice.
        floors = {layer: 1e-6 * float(found.std.max()) for layer, found in layers}
        weights = {
            layer: torch.where(found.std > floors[layer], 1 / found.std, 0.0) * float(found.std.max())
            for layer, found in layers
        }
    return Space({layer: found.mean for layer, found in layers}, weights)
