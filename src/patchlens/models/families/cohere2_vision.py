"""Cohere2 Vision (Command A Vision): equal tiles row by row, then a thumbnail of the whole if there are several.

The image is stretched to the shape of the tiles, nothing is cropped or padded; each tile becomes one square grid. The
processor puts a line break, a token of its own, after each tile, and a mark before the first and after the last.
"""

from typing import Any, ClassVar

from patchlens.models.adapter import Adapter, Card
from patchlens.models.framing import image_setting
from patchlens.models.tile import Tile
from patchlens.models.tiling import tiles_and_thumbnail

__all__ = ["Cohere2VisionAdapter"]


class Cohere2VisionAdapter(Adapter):
    """Cohere2 Vision: up to 12 tiles and a thumbnail, one visual token per four patches."""

    family: ClassVar[str] = "cohere2_vision"
    model_types: ClassVar[tuple[str, ...]] = ("cohere2_vision",)
    modalities: ClassVar[tuple[str, ...]] = ("image", "text")
    card: ClassVar[Card] = Card(
        "tiles row by row, then a thumbnail of the whole",
        notes=("Its processor needs torchvision.",),
    )
    bare_head: ClassVar[bool] = True

    def tiles(self, config: Any, processor: Any, size: tuple[int, int], images: int) -> tuple[Tile, ...]:
        """Tiles and thumbnail; see `Adapter.tiles`."""
        from transformers.models.cohere2_vision.image_processing_cohere2_vision import get_optimal_tiled_canvas

        side = config.vision_config.image_size // config.vision_config.patch_size // config.downsample_factor
        tile = dict(processor.image_processor.size)
        columns, rows = 1, 1
        if image_setting(processor, "crop_to_patches"):
            least, most = image_setting(processor, "min_patches"), image_setting(processor, "max_patches")
            columns, rows = get_optimal_tiled_canvas(size, (tile["height"], tile["width"]), least, most)
        return tiles_and_thumbnail(size, (rows, columns), (side, side))
