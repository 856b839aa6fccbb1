"""A named place to read or write, and the ways a person may list layers. Knows no model."""

import operator
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import SupportsIndex, cast

from patchlens.errors import OptionError

__all__ = ["Site", "layers_among", "resolve_layers"]

_RANGE = re.compile(r"(-?\d+)(?:-(-?\d+))?")


@dataclass(frozen=True, order=True)
class Site:
    """A place in the language model's residual stream."""

    layer: int
    """0 is what enters the first block; i is the output of the i-th block, before any final norm."""


def resolve_layers(layers: object, n_layers: int) -> tuple[int, ...]:
    """Turn what a person wrote into layer numbers.

    Args:
        layers: "all", one number, an iterable of numbers, or text such as "0,4,8-12". Negative numbers
            count from the end: -1 is the last layer.
        n_layers: Blocks of the language model; layers 0 to `n_layers` exist.

    Returns:
        The layers, sorted, each once.

    Raises:
        OptionError: Nothing was asked for, it is not a number, or the layer does not exist.

    Example:
        >>> resolve_layers("0,4,6-8", 8)
        (0, 4, 6, 7, 8)
        >>> resolve_layers(-1, 8)
        (8,)
    """
    if isinstance(layers, str) and layers == "all":
        return tuple(range(n_layers + 1))
    wanted = {_existing(number, layers, n_layers) for number in _numbers(layers, n_layers)}
    if not wanted:
        raise OptionError(
            f"No layers were asked for: got {layers!r}. Give 'all', or numbers from 0 to {n_layers} such as '0,4'."
        )
    return tuple(sorted(wanted))


def layers_among(layers: object, there: Sequence[int], of: str) -> tuple[int, ...]:
    """Turn what a person wrote into some of the layers that a thing holds.

    Args:
        layers: "all", one number, an iterable of numbers, or text such as "0,4,8-12"; -1 is the deepest.
        there: The layers that there are, at least one.
        of: What holds them, for the message.

    Returns:
        The layers, sorted, each once.

    Raises:
        OptionError: It holds no such layer, or none was asked for.

    Example:
        >>> layers_among("1,-1", (1, 4, 8), "the bank")
        (1, 8)
    """
    try:
        every = isinstance(layers, str) and layers == "all"
        wanted = tuple(there) if every else resolve_layers(layers, max(there))
    except OptionError:
        wanted = ()
    if not wanted or not set(wanted) <= set(there):
        raise OptionError(
            f"Choosing layers of {of}: {layers!r} are not among those that it holds, "
            f"{', '.join(map(str, sorted(there)))}. Name some of these, such as '{max(there)}'."
        )
    return tuple(sorted(wanted))


def _numbers(layers: object, n_layers: int) -> Iterable[int]:
    if isinstance(layers, str):
        for part in filter(None, (piece.strip() for piece in layers.split(","))):
            found = _RANGE.fullmatch(part)
            if found is None:
                raise _not_layers(layers, n_layers)
            first = int(found[1])
            last = first if found[2] is None else int(found[2])
            # Both ends first, so that a range to a layer of a billion fails before it is counted out.
            first, last = _existing(first, layers, n_layers), _existing(last, layers, n_layers)
            if last < first:
                raise _not_layers(layers, n_layers)
            yield from range(first, last + 1)
        return
    for number in layers if isinstance(layers, Iterable) else (layers,):
        if isinstance(number, bool):
            raise _not_layers(layers, n_layers)
        try:
            yield operator.index(cast(SupportsIndex, number))
        except TypeError:
            raise _not_layers(layers, n_layers) from None


def _existing(number: int, layers: object, n_layers: int) -> int:
    resolved = number + n_layers + 1 if number < 0 else number
    if not 0 <= resolved <= n_layers:
        raise OptionError(
            f"Layer {number} of {layers!r} does not exist: this model has {n_layers} blocks, so its layers "
            f"are 0 (what enters the first block) to {n_layers}. Choose among those; -1 is the last."
        )
    return resolved


def _not_layers(layers: object, n_layers: int) -> OptionError:
    return OptionError(
        f"Cannot read {layers!r} as layers. Give 'all', a number, a list of numbers, or text such as "
        f"'0,4,8-12', with numbers from 0 to {n_layers}."
    )
