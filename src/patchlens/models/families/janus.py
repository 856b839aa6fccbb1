"""Janus and Janus-Pro, reading: the image fitted into a square, its margins padded evenly, one grid over the square.

The visual tokens stand between a begin and an end mark. The codes that Janus draws images with are no part of its
vocabulary and do not stand in a prompt.
"""

from typing import Any, ClassVar

from patchlens.models.adapter import Adapter, Card
from patchlens.models.framing import padded_square
from patchlens.models.patch_grid import PatchGrid
from patchlens.models.token_map import Tile

__all__ = ["JanusAdapter"]


class JanusAdapter(Adapter):
    """Janus, with the encoder that it understands images by."""

    family: ClassVar[str] = "janus"
    model_types: ClassVar[tuple[str, ...]] = ("janus",)
    modalities: ClassVar[tuple[str, ...]] = ("image", "text")
    card: ClassVar[Card] = Card(
        "one grid over the image padded to a square",
        ("Only what it understands of images is read; images that it draws are not.",),
    )

    def tiles(self, config: Any, processor: Any, size: tuple[int, int], images: int) -> tuple[Tile, ...]:
        """One grid; see `Adapter.tiles`."""
        settings = processor.image_processor
        shown, seen = padded_square(settings, size, settings.size["height"])
        return (Tile(PatchGrid.of_patches(size, shown, seen, config.vision_config.patch_size)),)
