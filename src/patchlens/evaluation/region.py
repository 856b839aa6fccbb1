"""Which part of an image a judge is asked about: 3 × 3 patches, of which the one in the middle was read.

Knows tiles and pixels, and neither models nor judges.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from patchlens.errors import OptionError
from patchlens.inputs.image import ImageInput
from patchlens.models.tile import Tile

__all__ = ["REACH", "Region", "sample_region"]

REACH = 1
"""Patches around the middle one, to each side."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Region:
    """The patches around one visual token, and the pixels that they cover."""

    image: str
    """The image's name."""
    tile: int
    """Which tile of the image, from 0."""
    row: int
    """Row of the middle patch in its tile's grid."""
    column: int
    """Column of the middle patch."""
    box: Box
    """(top, left, bottom, right) of all its patches, in pixels of the original image."""
    reach: int = REACH
    """Patches to each side of the middle one."""

    @property
    def cells(self) -> tuple[tuple[int, int], ...]:
        """(row, column) of every patch of the region, row by row."""
        steps = range(-self.reach, self.reach + 1)
        return tuple((self.row + down, self.column + right) for down in steps for right in steps)

    def to_json(self) -> dict[str, Any]:
        """The region as plain JSON values."""
        return asdict(self) | {"box": list(self.box)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Region":
        """Make the region again from `to_json`."""
        return cls(**{**record, "box": tuple(record["box"])})

    @classmethod
    def around(
        cls, image: str, tiles: Sequence[Tile], tile: int, row: int, column: int, reach: int = REACH
    ) -> "Region":
        """The region around a patch.

        Raises:
            OptionError: It would reach beyond the grid.
        """
        grid = tiles[tile].grid
        top, left, _, _ = grid.box(row - reach, column - reach)
        _, _, bottom, right = grid.box(row + reach, column + reach)
        return cls(image, tile, row, column, (top, left, bottom, right), reach)


def sample_region(image: ImageInput, tiles: Sequence[Tile], *, seed: int = 0, reach: int = REACH) -> Region | None:
    """Draw one region of an image, each that lies wholly in real pixels being as likely as any other.

    The draw depends on the seed and the image's pixels alone: not on the lens, the layer, or the other images. So all
    lenses and layers are judged on the same patch, and adding images moves none.

    Args:
        image: What the tiles lie over.
        tiles: As in `Readings.tiles`.
        seed: Another seed draws other patches.
        reach: Patches to each side of the middle one.

    Returns:
        The region, or None where no tile has one within the image: too few patches, or padding everywhere.

    Raises:
        OptionError: A negative reach.

    Reference:
        arXiv 2602.00462, §3.3: one 3 × 3 area in the unpadded image, the patch in its middle is judged.
    """
    if reach < 0:
        raise OptionError(f"A region that reaches {reach} patches to each side has no patch. Expected 0 or more.")
    inside = [
        (number, row, column)
        for number, tile in enumerate(tiles)
        for row in range(reach, tile.grid.rows - reach)
        for column in range(reach, tile.grid.columns - reach)
        if _within(Region.around(image.name, tiles, number, row, column, reach).box, image.size)
    ]
    if not inside:
        return None
    return Region.around(image.name, tiles, *random.Random(f"{seed} {image.sha256}").choice(inside), reach)


def _within(box: Box, size: tuple[int, int]) -> bool:
    """Whether a box lies in the image, up to a hundredth of a pixel of rounding."""
    top, left, bottom, right = box
    return top >= -0.01 and left >= -0.01 and bottom <= size[0] + 0.01 and right <= size[1] + 0.01
