"""LLaVA-NeXT (LLaVA 1.6): a thumbnail of the whole image, then the image at a higher resolution as one grid.

All on positions of the image token: the thumbnail's rows without newlines, then the grid's rows with a learned newline
after each. The video variant is served for images, which it lays out in the same way.
"""

from typing import Any, ClassVar

from patchlens.models.adapter import Adapter, Card
from patchlens.models.anyres import anyres_tiles
from patchlens.models.tile import Tile

__all__ = ["LlavaNextAdapter"]


class LlavaNextAdapter(Adapter):
    """LLaVA-NeXT, Granite Vision and every model saved in its architecture."""

    family: ClassVar[str] = "llava_next"
    model_types: ClassVar[tuple[str, ...]] = ("llava_next", "llava_next_video")
    modalities: ClassVar[tuple[str, ...]] = ("image", "text")
    card: ClassVar[Card] = Card(
        "a thumbnail of the whole, then one grid over the image at a higher resolution, a newline after each row",
        ("The high-resolution grid is made of separately encoded tiles: its patches see their own tile alone.",),
    )
    bare_head: ClassVar[bool] = True

    def tiles(self, config: Any, processor: Any, size: tuple[int, int], images: int) -> tuple[Tile, ...]:
        """Thumbnail and grid; see `Adapter.tiles`."""
        return anyres_tiles(config, processor, size)
