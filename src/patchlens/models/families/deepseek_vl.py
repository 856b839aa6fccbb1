"""DeepSeek-VL: the image fitted into a square, its margins padded evenly, one grid over the square, no marks around it.

The larger model sees the same square a second time at a higher resolution, through SAM; what comes of it is brought to
the same grid and joined to the same tokens.
"""

from typing import Any, ClassVar

from patchlens.models.adapter import Adapter, Card
from patchlens.models.framing import padded_square
from patchlens.models.patch_grid import PatchGrid
from patchlens.models.token_map import Tile

__all__ = ["DeepseekVLAdapter"]


class DeepseekVLAdapter(Adapter):
    """DeepSeek-VL of both sizes."""

    family: ClassVar[str] = "deepseek_vl"
    model_types: ClassVar[tuple[str, ...]] = ("deepseek_vl", "deepseek_vl_hybrid")
    modalities: ClassVar[tuple[str, ...]] = ("image", "text")
    card: ClassVar[Card] = Card("one grid over the image padded to a square")

    def tiles(self, config: Any, processor: Any, size: tuple[int, int], images: int) -> tuple[Tile, ...]:
        """One grid; see `Adapter.tiles`."""
        settings = processor.image_processor
        # With two resolutions the lower is made of the higher, which is padded first.
        first = getattr(settings, "high_res_size", None) or settings.size
        shown, seen = padded_square(settings, size, first["height"])
        if settings.do_resize:
            seen = int(settings.size["height"]), int(settings.size["width"])
        return (Tile(PatchGrid.of_patches(size, shown, seen, config.vision_config.patch_size)),)
