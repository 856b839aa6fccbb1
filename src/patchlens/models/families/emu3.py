"""Emu3: an image is words of the vocabulary, the codes that a VQ encoder finds for its cells, row by row.

The image is resized to whole cells within limits of its pixels, nothing is cropped or padded. Prompts hold
placeholders, which the model exchanges for the codes and, after each row, for a word that ends it. Layer 0 at a visual
token is therefore the embedding of a code, whatever else is in the cell. Before them the processor writes how many rows
and columns there are, in digits.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from patchlens.errors import ImageError
from patchlens.models.adapter import Adapter, Card, Request
from patchlens.models.patch_grid import PatchGrid
from patchlens.models.tile import Tile
from patchlens.models.tiling import whole

if TYPE_CHECKING:
    import patchlens.models.model

__all__ = ["Emu3Adapter"]


class Emu3Adapter(Adapter):
    """Emu3, reading images."""

    family: ClassVar[str] = "emu3"
    model_types: ClassVar[tuple[str, ...]] = ("emu3",)
    modalities: ClassVar[tuple[str, ...]] = ("image", "text")
    card: ClassVar[Card] = Card(
        "one grid over the whole image, with an end after each row",
        (
            "Visual tokens are words of the vocabulary: layer 0 holds the embedding of a code, no image.",
            "A code depends on pixels around its cell too, through the encoder's convolutions and attention.",
            "Images of one prompt are padded to a common size, which changes their codes.",
            "The model could answer in codes, as when it draws; here it answers in words.",
        ),
    )
    alone: ClassVar[bool] = True

    def tiles(self, config: Any, processor: Any, size: tuple[int, int], images: int) -> tuple[Tile, ...]:
        """One grid; see `Adapter.tiles`."""
        from transformers.models.emu3.image_processing_emu3 import smart_resize

        settings, seen = processor.image_processor, size
        if settings.do_resize:
            try:
                seen = smart_resize(*size, settings.spatial_factor, settings.min_pixels, settings.max_pixels)
            except ValueError as error:
                raise ImageError(
                    f"Preparing an image of {size[0]} × {size[1]} pixels: this model's processor refuses it ({error}). "
                    "Crop it to a usual shape first."
                ) from error
        halvings = len(config.vq_config.channel_multiplier) - 1
        return (Tile(PatchGrid.of_patches(size, whole(size), seen, 2**halvings), after_row=1),)

    def process(
        self, model: "patchlens.models.model.Model", texts: list[str], requests: Sequence[Request]
    ) -> dict[str, Any]:
        """The processor begins every text, also one that has begun; see `Adapter.process`."""
        return super().process(model, [text.removeprefix(model.tokenizer.bos_token) for text in texts], requests)

    def generate(self, network: Any, inputs: dict[str, Tensor], tokens: int) -> Tensor:
        """In words, as lenses read; see `Adapter.generate`."""
        answer: Tensor = network.generate(
            **inputs,
            max_new_tokens=tokens,
            do_sample=False,
            num_beams=1,
            suppress_tokens=list(self.codes(network.config)),
        )
        return answer

    def codes(self, config: Any) -> Sequence[int]:
        """The codes of images; see `Adapter.codes`."""
        return sorted(number for name, number in config.vocabulary_map.items() if name.startswith("<|visual token"))
