"""Idefics3: equal square tiles row by row, each behind a `<row_r_col_c>` tag, then a thumbnail of the whole.

The image is stretched to the shape of the tiles, nothing is cropped or padded; a pixel shuffle makes one token of
several patches. Where one tile is enough there is only the image itself, behind `<global-img>`.
"""

import math
from typing import Any, ClassVar

import numpy as np

from patchlens.models.adapter import Adapter, Card
from patchlens.models.patch_grid import PatchGrid
from patchlens.models.tiling import whole
from patchlens.models.token_map import Tile

__all__ = ["Idefics3Adapter", "split_tiles"]


class Idefics3Adapter(Adapter):
    """Idefics3, and document models in its architecture (Granite Docling)."""

    family: ClassVar[str] = "idefics3"
    model_types: ClassVar[tuple[str, ...]] = ("idefics3",)
    modalities: ClassVar[tuple[str, ...]] = ("image", "text")
    card: ClassVar[Card] = Card("tiles row by row with tags between them, then a thumbnail of the whole")

    def tiles(self, config: Any, processor: Any, size: tuple[int, int], images: int) -> tuple[Tile, ...]:
        """Tiles and thumbnail; see `Adapter.tiles`."""
        return split_tiles(config, processor.image_processor, size)


def split_tiles(config: Any, image_processor: Any, size: tuple[int, int]) -> tuple[Tile, ...]:
    """Lay out an image as the image processors of Idefics3 and SmolVLM do.

    Args:
        config: The model's whole config.
        image_processor: Its settings are read.
        size: (height, width) of the original upright image, in pixels.
    """
    edge = image_processor.max_image_size["longest_edge"]
    cell = config.vision_config.patch_size * config.scale_factor

    def grid(top: float, left: float, bottom: float, right: float) -> PatchGrid:
        return PatchGrid.of_patches(size, (top, left, bottom, right), (edge, edge), cell)

    rows, columns = _splits(image_processor, size, edge)
    everything = grid(*whole(size))
    if rows * columns == 1:
        return (Tile(everything),)
    height, width = size[0] / rows, size[1] / columns
    parts = [
        Tile(grid(row * height, column * width, (row + 1) * height, (column + 1) * width), "tile", (row, column))
        for row in range(rows)
        for column in range(columns)
    ]
    return (*parts, Tile(everything, "thumbnail"))


def _splits(image_processor: Any, size: tuple[int, int], edge: int) -> tuple[int, int]:
    """(rows, columns) of tiles."""
    if not image_processor.do_image_splitting:
        return 1, 1
    height, width = _resized(image_processor, size)
    # The longer side goes up to whole tiles and takes the other along. That one is cut to whole pixels before it goes
    # up too, so the floats are computed as the processor does.
    ratio = width / height
    if width >= height:
        columns = math.ceil(width / edge)
        rows = math.ceil(int(columns * edge / ratio) / edge)
    else:
        rows = math.ceil(height / edge)
        columns = math.ceil(int(rows * edge * ratio) / edge)
    return rows, columns


def _resized(image_processor: Any, size: tuple[int, int]) -> tuple[int, int]:
    if not image_processor.do_resize:
        return size
    wanted = dict(image_processor.size)
    if not wanted.get("longest_edge"):
        return wanted["height"], wanted["width"]
    from transformers.models.idefics3.image_processing_pil_idefics3 import get_resize_output_image_size

    shape_alone = np.broadcast_to(np.uint8(0), (1, *size))
    height, width = get_resize_output_image_size(shape_alone, wanted["longest_edge"])
    return height, width
