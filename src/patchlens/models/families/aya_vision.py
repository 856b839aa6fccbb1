"""Aya Vision: equal tiles row by row, then a thumbnail of the whole if there are several.

The image is stretched to the shape of the tiles, nothing is cropped or padded; each tile becomes one square grid. The
processor puts "TILE_1", "TILE_2" … and "TILE_GLOBAL" before them and a mark before the first and after the last.
"""

from typing import Any, ClassVar

from patchlens.models.adapter import Adapter, Card
from patchlens.models.framing import image_setting
from patchlens.models.tile import Tile
from patchlens.models.tiling import tiles_and_thumbnail

__all__ = ["AyaVisionAdapter"]


class AyaVisionAdapter(Adapter):
    """Aya Vision: up to 12 tiles and a thumbnail, one visual token per four patches."""

    family: ClassVar[str] = "aya_vision"
    model_types: ClassVar[tuple[str, ...]] = ("aya_vision",)
    modalities: ClassVar[tuple[str, ...]] = ("image", "text")
    card: ClassVar[Card] = Card("tiles row by row, then a thumbnail of the whole")
    bare_head: ClassVar[bool] = True

    def tiles(self, config: Any, processor: Any, size: tuple[int, int], images: int) -> tuple[Tile, ...]:
        """Tiles and thumbnail; see `Adapter.tiles`."""
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

        side = config.vision_config.image_size // config.vision_config.patch_size // config.downsample_factor
        tile = dict(processor.image_processor.size)
        least, most = image_setting(processor, "min_patches"), image_setting(processor, "max_patches")
        columns, rows = 1, 1
        if image_setting(processor, "crop_to_patches") and most > 1:
            columns, rows = get_optimal_tiled_canvas(size, (tile["height"], tile["width"]), least, most)
        return tiles_and_thumbnail(size, (rows, columns), (side, side))
