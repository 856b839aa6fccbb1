"""Chameleon: an image is 1024 words of the vocabulary, the codes that a VQ encoder finds for its cells, row by row.

Prompts hold placeholders, which the model exchanges for the codes. Layer 0 at a visual token is therefore the embedding
of one of a few thousand codes, whatever else is in the cell. The model gives codes no probability in its answers.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from patchlens.models.adapter import Adapter, Card
from patchlens.models.framing import framed_grid
from patchlens.models.token_map import Tile

__all__ = ["ChameleonAdapter"]


class ChameleonAdapter(Adapter):
    """Chameleon, reading images."""

    family: ClassVar[str] = "chameleon"
    model_types: ClassVar[tuple[str, ...]] = ("chameleon",)
    modalities: ClassVar[tuple[str, ...]] = ("image", "text")
    card: ClassVar[Card] = Card(
        "one grid over the centre of the image",
        (
            "Visual tokens are words of the vocabulary: layer 0 holds the embedding of a code, no image.",
            "A code depends on pixels around its cell too, through the encoder's convolutions.",
            "The processor ends every prompt with images in the mark after which the model answers.",
        ),
    )

    def tiles(self, config: Any, processor: Any, size: tuple[int, int], images: int) -> tuple[Tile, ...]:
        """One grid; see `Adapter.tiles`."""
        halvings = len(config.vq_config.channel_multiplier) - 1
        return (Tile(framed_grid(processor.image_processor, size, 2**halvings)),)

    def codes(self, config: Any) -> Sequence[int]:
        """The codes of images; see `Adapter.codes`."""
        return sorted(number for name, number in config.vocabulary_map.items() if name.startswith("IMGIMG"))
