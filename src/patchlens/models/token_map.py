"""What stands at each position of a prompt: text, a patch of an image, a moment of sound, or nothing of its own.

It knows geometry only through `PatchGrid`, and no processor: the family's adapter says how an image is cut.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from patchlens.axes import Bool, Float, Int
from patchlens.errors import OptionError
from patchlens.models.tile import KINDS, VISUAL, Tile

__all__ = ["KINDS", "VISUAL", "Tile", "TokenMap"]


@dataclass(frozen=True, eq=False)
class TokenMap:
    """What each of some positions holds, column by column, in sequence order."""

    kinds: Int[Tensor, " token"]
    """Indices into `KINDS`."""

    sources: Int[Tensor, " token"]
    """Number of the image or recording that it belongs to, fillers and separators included; -1 for text."""

    tiles: Int[Tensor, " token"]
    """For a patch, which tile of its image; else -1."""

    cells: Int[Tensor, " token"]
    """For a patch its cell in the tile's grid, row-major; for a query or an audio token its number in the source; else
    -1."""

    seconds: Float[Tensor, "token 2"]
    """For an audio token, from when to when; else NaN."""

    layout: tuple[tuple[Tile, ...], ...]
    """The tiles of each source; none for a recording or where no geometry is known."""

    @classmethod
    def of_text(cls, count: int) -> "TokenMap":
        """A map in which everything is text."""
        # A tensor of its own for each: safetensors refuses to write one under several names.
        sources, tiles, cells = (torch.full((count,), -1) for _ in range(3))
        return cls(torch.zeros(count, dtype=torch.long), sources, tiles, cells, torch.full((count, 2), torch.nan), ())

    @classmethod
    def without_places(cls, count: int, sources: int) -> "TokenMap":
        """A map of visual tokens that are a list: of no row, column or moment.

        Args:
            count: How many tokens.
            sources: How many images and recordings they may have come from; which one is not said, and the first is
                taken.
        """
        nothing, zero = torch.full((count,), -1), torch.zeros(count, dtype=torch.long)
        kinds = torch.full((count,), KINDS.index("query"))
        seconds = torch.full((count, 2), torch.nan)
        return cls(kinds, zero, nothing, torch.arange(count), seconds, ((),) * sources)

    def followed_by(self, kind: str, count: int) -> "TokenMap":
        """The map with some tokens of one kind behind it, which belong to no source."""
        nothing = torch.full((count,), -1)
        return TokenMap(
            torch.cat([self.kinds, torch.full((count,), KINDS.index(kind))]),
            torch.cat([self.sources, nothing]),
            torch.cat([self.tiles, nothing]),
            torch.cat([self.cells, nothing]),
            torch.cat([self.seconds, torch.full((count, 2), torch.nan)]),
            self.layout,
        )

    def __len__(self) -> int:
        return len(self.kinds)

    def having(self, *kinds: str) -> Bool[Tensor, " token"]:
        """Which tokens are of one of the kinds."""
        return torch.isin(self.kinds, torch.tensor([KINDS.index(kind) for kind in kinds]))

    @property
    def visual(self) -> Bool[Tensor, " token"]:
        """Which tokens came from an image or a recording; fillers and separators did not."""
        return self.having(*VISUAL)

    def take(self, chosen: Tensor) -> "TokenMap":
        """Some of the tokens, by mask or by number."""
        return TokenMap(
            self.kinds[chosen],
            self.sources[chosen],
            self.tiles[chosen],
            self.cells[chosen],
            self.seconds[chosen],
            self.layout,
        )

    def places(self) -> tuple[Int[Tensor, " token"], Int[Tensor, " token"]]:
        """(row, column) of each patch in its tile's grid; -1 for everything else."""
        columns = torch.ones_like(self.cells)
        for source, tiles in enumerate(self.layout):
            for number, tile in enumerate(tiles):
                columns[(self.sources == source) & (self.tiles == number)] = tile.grid.columns
        patches = self.tiles >= 0
        none = torch.full_like(self.cells, -1)
        return torch.where(patches, self.cells // columns, none), torch.where(patches, self.cells % columns, none)

    def box(self, token: int) -> tuple[float, float, float, float]:
        """Say which pixels of its original image a patch covers: (top, left, bottom, right).

        Raises:
            OptionError: The token is no patch.
        """
        source, number, cell = (int(column[token]) for column in (self.sources, self.tiles, self.cells))
        if number < 0:
            raise OptionError(
                f"Token {token} is of kind '{KINDS[int(self.kinds[token])]}' and has no place in an image. "
                "Ask for the box of a patch."
            )
        grid = self.layout[source][number].grid
        return grid.box(*grid.at(cell))

    def to_tensors(self) -> dict[str, Tensor]:
        """The columns by name, for a file."""
        return {
            "kinds": self.kinds,
            "sources": self.sources,
            "tiles": self.tiles,
            "cells": self.cells,
            "seconds": self.seconds,
        }

    @classmethod
    def from_tensors(cls, columns: Mapping[str, Tensor], layout: Sequence[Sequence[Tile]]) -> "TokenMap":
        """Make the map again, checking that its columns and its layout fit together.

        Raises:
            ValueError: They do not; a clause says why.
        """
        count = len(columns["kinds"])
        for name, shape in (("sources", (count,)), ("tiles", (count,)), ("cells", (count,)), ("seconds", (count, 2))):
            if tuple(columns[name].shape) != shape:
                raise ValueError(f"{name} of shape {tuple(columns[name].shape)} for {count} tokens")
        for name in ("kinds", "sources", "tiles", "cells"):
            if columns[name].is_floating_point() or columns[name].dtype == torch.bool:
                raise ValueError(f"{name} that are no whole numbers")
        made = cls(
            columns["kinds"].long(),
            columns["sources"].long(),
            columns["tiles"].long(),
            columns["cells"].long(),
            columns["seconds"].float(),
            tuple(tuple(tiles) for tiles in layout),
        )
        if len(made) and not 0 <= int(made.kinds.min()) <= int(made.kinds.max()) < len(KINDS):
            raise ValueError(f"kinds outside 0 to {len(KINDS) - 1}")
        for name, column in (("sources", made.sources), ("tiles", made.tiles), ("cells", made.cells)):
            if len(made) and int(column.min()) < -1:
                raise ValueError(f"{name} below -1")
        known = len(made.layout)
        if beyond := torch.nonzero(made.sources >= known)[:1, 0].tolist():
            number = int(made.sources[beyond[0]])
            raise ValueError(f"token {beyond[0]} is of source {number}, counted from 0, and there are {known}")
        if bool(((made.tiles >= 0) != made.having("patch")).any()):
            raise ValueError("patches without a tile, or tiles without a patch")
        for token in torch.nonzero(made.tiles >= 0)[:, 0].tolist():
            source, number, cell = int(made.sources[token]), int(made.tiles[token]), int(made.cells[token])
            fits = 0 <= source < len(made.layout) and number < len(made.layout[source])
            if not fits or not 0 <= cell < len(made.layout[source][number].grid):
                raise ValueError(f"token {token} has no place in the layout")
        return made
