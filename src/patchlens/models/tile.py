"""What positions can hold, and the grids of visual tokens that an image, or a moment of a video, is cut into.

Needs no torch, so that saved results open without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from patchlens.errors import OptionError
from patchlens.models.patch_grid import PatchGrid

__all__ = ["KINDS", "ROLES", "VISUAL", "Tile"]

KINDS = ("text", "special", "separator", "answer", "patch", "query", "audio", "filler")
"""What a position can hold.

    text        a token of the prompt, the template's words included
    special     a special token of the tokenizer: begin, end, turns
    separator   text and marks that the processor puts around an image and between its tiles
    answer      a token that the model generated
    patch       a visual token with a place in an image
    query       a visual token without one: a Q-Former's, or of a family that patchlens knows no geometry of
    audio       a token made of a recording
    filler      a placeholder that holds no part of the image: a learned newline, an end of row
"""

VISUAL = ("patch", "query", "audio")
"""The kinds that came from an image or a recording."""

ROLES = ("image", "thumbnail", "tile", "frame")


@dataclass(frozen=True)
class Tile:
    """One grid of visual tokens that the vision encoder made in one go.

    Example:
        >>> grid = PatchGrid(2, 3, image_size=(20, 30), region=(0.0, 0.0, 20.0, 30.0))
        >>> len(Tile(grid)), len(Tile(grid, after_row=1))
        (6, 8)
    """

    grid: PatchGrid
    """Where its tokens lie in the original image."""

    role: str = "image"
    """"image": the whole of it, once; "thumbnail": the whole beside its tiles; "tile": a part, or the whole at a higher
    resolution; "frame": a moment of a video."""

    place: tuple[int, int] | None = None
    """(row, column) among the tiles of the image; None where there is no such order."""

    time: tuple[float, float] | None = None
    """From and to, in seconds, for a frame of a video."""

    after_row: int = 0
    """Fillers after each row of tokens."""

    after: int = 0
    """Fillers after the last row."""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise OptionError(f"A tile has the role {self.role!r}. Choose among {', '.join(ROLES)}.")

    def __len__(self) -> int:
        return self.grid.rows * (self.grid.columns + self.after_row) + self.after

    def cells(self) -> list[int]:
        """The cell of each of its placeholders in sequence order, row-major from 0; -1 for fillers."""
        found: list[int] = []
        for row in range(self.grid.rows):
            found += range(row * self.grid.columns, (row + 1) * self.grid.columns)
            found += [-1] * self.after_row
        return found + [-1] * self.after

    def to_json(self) -> dict[str, Any]:
        """Give the tile as plain JSON values."""
        return {
            "grid": self.grid.to_json(),
            "role": self.role,
            "place": self.place and list(self.place),
            "time": self.time and list(self.time),
            "after_row": self.after_row,
            "after": self.after,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Tile":
        """Make the tile again from `to_json`.

        Raises:
            OptionError: Fields are missing or of the wrong kind.
        """
        try:
            place, time = fields.get("place"), fields.get("time")
            return cls(
                grid=PatchGrid.from_json(fields["grid"]),
                role=str(fields.get("role", "image")),
                place=None if place is None else (int(place[0]), int(place[1])),
                time=None if time is None else (float(time[0]), float(time[1])),
                after_row=int(fields.get("after_row", 0)),
                after=int(fields.get("after", 0)),
            )
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise OptionError(f"Cannot read a tile from {fields!r}. It needs at least a grid.") from error
