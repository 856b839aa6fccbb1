"""SmolVLM and SmolVLM2: laid out as Idefics3, on which they were built.

Their processor counts the frames of a video in words and will not exist without num2words. Images need none of it, so
patchlens loads it without.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from patchlens.errors import MissingExtra
from patchlens.models.adapter import Adapter, Card
from patchlens.models.families.idefics3 import split_tiles
from patchlens.models.token_map import Tile

__all__ = ["SmolVLMAdapter", "num2words_optional"]


class SmolVLMAdapter(Adapter):
    """SmolVLM 1 and 2."""

    family: ClassVar[str] = "smolvlm"
    model_types: ClassVar[tuple[str, ...]] = ("smolvlm",)
    modalities: ClassVar[tuple[str, ...]] = ("image", "text")
    card: ClassVar[Card] = Card("tiles row by row with tags between them, then a thumbnail of the whole")

    def load_processor(self, place: str, **options: Any) -> Any:
        """Load it, with num2words or without; see `Adapter.load_processor`."""
        with num2words_optional():
            return super().load_processor(place, **options)

    def tiles(self, config: Any, processor: Any, size: tuple[int, int], images: int) -> tuple[Tile, ...]:
        """Tiles and thumbnail; see `Adapter.tiles`."""
        return split_tiles(config, processor.image_processor, size)


@contextmanager
def num2words_optional() -> Iterator[None]:
    """Let the processor be made while the body runs, also where num2words is missing."""
    from transformers.models.smolvlm import processing_smolvlm

    found = processing_smolvlm.num2words
    processing_smolvlm.num2words = found or _no_words
    try:
        yield
    finally:
        processing_smolvlm.num2words = found


def _no_words(_: int) -> str:
    raise MissingExtra("Preparing a video for SmolVLM needs num2words: pip install num2words.")
