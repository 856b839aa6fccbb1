"""InternVL 3 and 3.5 in transformers' layout: equal tiles row by row, then a thumbnail of the whole.

The thumbnail is left out where one tile is the whole. The image is stretched to the shape of the tiles, nothing is
cropped or padded; each tile becomes one square grid.
"""

from typing import Any, ClassVar

from patchlens.models.adapter import Adapter, Card
from patchlens.models.framing import image_setting
from patchlens.models.tiling import tiles_and_thumbnail
from patchlens.models.token_map import Tile

__all__ = ["InternVLAdapter"]


class InternVLAdapter(Adapter):
    """InternVL: up to 12 tiles and a thumbnail, one visual token per four patches."""

    family: ClassVar[str] = "internvl"
    model_types: ClassVar[tuple[str, ...]] = ("internvl",)
    modalities: ClassVar[tuple[str, ...]] = ("image", "text")
    card: ClassVar[Card] = Card("tiles row by row, then a thumbnail of the whole")
    bare_head: ClassVar[bool] = True

    def tiles(self, config: Any, processor: Any, size: tuple[int, int], images: int) -> tuple[Tile, ...]:
        """Tiles and thumbnail; see `Adapter.tiles`."""
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

        height, width = config.vision_config.image_size
        patch = config.vision_config.patch_size[0]
        cells = (int(height // patch * config.downsample_ratio), int(width // patch * config.downsample_ratio))
        most = image_setting(processor, "max_patches")
        columns, rows = 1, 1
        if image_setting(processor, "crop_to_patches") and most > 1:
            fewest = image_setting(processor, "min_patches")
            columns, rows = get_optimal_tiled_canvas(size, (height, width), fewest, most)
        return tiles_and_thumbnail(size, (rows, columns), cells)
