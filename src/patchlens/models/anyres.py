"""The any-resolution layout: a thumbnail of the whole image, then one grid stitched from its tiles.

The image is resized into the best of some canvases and padded around its centre there; the canvas is cut into square
tiles, which are encoded one by one. Their patches are put together again to a single grid over the canvas, in which
rows run through all tiles. Rows or columns of padding are cut off, the grid may be shrunk, and each row ends in a
newline.
"""

from math import sqrt
from typing import Any

import numpy as np

from patchlens.errors import ModelIncomplete
from patchlens.models.framing import output_size, shown_region
from patchlens.models.patch_grid import PatchGrid
from patchlens.models.tile import Tile

__all__ = ["anyres_tiles", "square_tile"]

_Size = tuple[int, int]  # height, width


def anyres_tiles(config: Any, processor: Any, size: _Size, most: int | None = None) -> tuple[Tile, ...]:
    """The thumbnail and the stitched grid.

    Where the patches do not fill a tile (27 patches of 14 pixels in 384), the stitched grid has gaps between tiles. Its
    cells are laid evenly over them, so that none is off by more than half a gap.

    Args:
        config: The model's whole config.
        processor: The model's.
        size: (height, width) of the original image.
        most: Above how many tiles' worth of tokens the stitched grid is shrunk; None if never.

    Raises:
        ModelIncomplete: Tiles do not fill a canvas.
    """
    settings, patch = processor.image_processor, config.vision_config.patch_size
    thumbnail = _seen(settings, _stretched(settings), patch)
    overview = PatchGrid(thumbnail.rows, thumbnail.columns, size, _scaled(thumbnail, size))
    side = _tile_side(settings)
    tile = _seen(settings, (side, side), patch)
    canvas, resized = _canvas(settings, size, side)
    grid = canvas[0] // side * tile.rows, canvas[1] // side * tile.columns
    cut = _padding(size, grid)
    rows, columns = kept = grid[0] - 2 * cut[0], grid[1] - 2 * cut[1]
    if most is not None and (ratio := sqrt(rows * columns / (most * tile.rows**2))) > 1.1:
        rows, columns = int(rows // ratio), int(columns // ratio)
    if not rows or not columns:  # all was taken for padding: of rows without columns the newlines are left
        return (Tile(overview, after=rows),)
    steps = side / tile.rows, side / tile.columns
    edges = [
        _side(size[axis], resized[axis], canvas[axis], cut[axis] * step, (cut[axis] + kept[axis]) * step, off)
        for axis, (step, off) in enumerate(zip(steps, _off_centre(tile), strict=True))
    ]
    (top, bottom), (left, right) = edges
    stitched = PatchGrid(rows, columns, size, (top, left, bottom, right))
    return Tile(overview, "thumbnail"), Tile(stitched, "tile", after_row=1)


def square_tile(config: Any, processor: Any, size: _Size) -> Tile:
    """The image padded to a square around its centre, as one grid with a newline behind it."""
    longest = max(size)
    seen = _seen(processor.image_processor, (longest, longest), config.vision_config.patch_size)
    above, before = (longest - size[0]) // 2, (longest - size[1]) // 2
    top, left, bottom, right = seen.region
    region = (top - above, left - before, bottom - above, right - before)
    return Tile(PatchGrid(seen.rows, seen.columns, size, region), after=1)


def _seen(settings: Any, size: _Size, patch: int) -> PatchGrid:
    """The grid that the encoder lays over an image of this size, which is a square already."""
    pixels = output_size(settings, size)
    return PatchGrid.of_patches(size, shown_region(settings, size, pixels), pixels, patch)


def _scaled(grid: PatchGrid, size: _Size) -> tuple[float, float, float, float]:
    down, across = size[0] / grid.image_size[0], size[1] / grid.image_size[1]
    top, left, bottom, right = grid.region
    return top * down, left * across, bottom * down, right * across


def _stretched(settings: Any) -> _Size:
    """What the whole image is stretched to before the usual steps."""
    wanted = dict(settings.size)
    if "shortest_edge" in wanted:
        return int(wanted["shortest_edge"]), int(wanted["shortest_edge"])
    return int(wanted["height"]), int(wanted["width"])


def _tile_side(settings: Any) -> int:
    """Pixels of the canvas per tile; the processor takes the height for both."""
    crop = dict(settings.crop_size or {})
    return int(crop["height"]) if crop else _stretched(settings)[0]


def _canvas(settings: Any, size: _Size, tile: int) -> tuple[_Size, _Size]:
    """(height, width) of the canvas, and of the image in it."""
    from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
    from transformers.image_utils import ChannelDimension

    canvas = select_best_resolution(size, settings.image_grid_pinpoints)
    if canvas[0] % tile or canvas[1] % tile:
        raise ModelIncomplete(
            f"{type(settings).__name__} fits an image of {size[0]} × {size[1]} pixels into {canvas[0]} × {canvas[1]}, "
            f"which its tiles of {tile} pixels do not fill. Correct 'image_grid_pinpoints' or 'size' in the "
            "processor's config."
        )
    shape_alone = np.broadcast_to(np.zeros(()), (3, *size))
    height, width = get_patch_output_size(shape_alone, canvas, ChannelDimension.FIRST)
    return (int(canvas[0]), int(canvas[1])), (int(height), int(width))


def _padding(size: _Size, grid: _Size) -> _Size:
    """Rows cut off at top and bottom, and columns at left and right.

    Counted in cells and rounded, so it may leave padding in or cut a part of the image off.
    """
    height, width = size
    rows, columns = grid
    if width / height > columns / rows:
        return (rows - int(round(height * (columns / width), 7))) // 2, 0
    return 0, (columns - int(round(width * (rows / height), 7))) // 2


def _off_centre(tile: PatchGrid) -> tuple[float, float]:
    """How far the middle of the patches lies from the middle of their tile."""
    top, left, bottom, right = tile.region
    return (top + bottom - tile.image_size[0]) / 2, (left + right - tile.image_size[1]) / 2


def _side(original: int, resized: int, canvas: int, begin: float, end: float, off: float) -> tuple[float, float]:
    """From pixels of the canvas to pixels of the original, along one axis."""
    before, scale = (canvas - resized) // 2, original / resized
    return (begin + off - before) * scale, (end + off - before) * scale
