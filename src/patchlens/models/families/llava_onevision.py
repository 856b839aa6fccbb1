"""LLaVA-OneVision: a single image as in LLaVA-NeXT, several as one grid each.

A single image is a thumbnail, then one grid at a higher resolution with a learned newline after each row, shrunk by
interpolation where it has more tokens than the setting `vision_aspect_ratio` allows ("anyres_max_9": nine tiles'). Of
several images each is padded to a square and becomes one grid with one newline behind it.
"""

from typing import Any, ClassVar

from patchlens.models.adapter import Adapter, Card
from patchlens.models.anyres import anyres_tiles, square_tile
from patchlens.models.tile import Tile

__all__ = ["LlavaOnevisionAdapter"]


class LlavaOnevisionAdapter(Adapter):
    """LLaVA-OneVision; images only."""

    family: ClassVar[str] = "llava_onevision"
    model_types: ClassVar[tuple[str, ...]] = ("llava_onevision",)
    modalities: ClassVar[tuple[str, ...]] = ("image", "text")
    card: ClassVar[Card] = Card(
        "a thumbnail of the whole, then one grid over the image at a higher resolution, a newline after each row; "
        "several images: one grid each",
        (
            "The high-resolution grid is made of separately encoded tiles. For large images it is interpolated after "
            "the projector, and a token mixes up to four of the projector's.",
            "An image shown alone has other tokens than the same image shown with others.",
        ),
    )
    bare_head: ClassVar[bool] = True

    def tiles(self, config: Any, processor: Any, size: tuple[int, int], images: int) -> tuple[Tile, ...]:
        """Thumbnail and grid, or one square each; see `Adapter.tiles`."""
        if images > 1:
            return (square_tile(config, processor, size),)
        return anyres_tiles(
            config, processor, size, most=int(processor.vision_aspect_ratio.removeprefix("anyres_max_"))
        )
