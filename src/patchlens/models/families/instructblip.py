"""InstructBLIP: BLIP-2 whose Q-Former also reads the prompt, so that the visual tokens depend on what is asked.

They stand before everything, even the begin of the text, and none has a place in the image.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from patchlens.models.adapter import Adapter, Card, Request
from patchlens.models.families.blip_2 import with_queries

if TYPE_CHECKING:
    import patchlens.models.model

__all__ = ["InstructBlipAdapter"]


class InstructBlipAdapter(Adapter):
    """InstructBLIP with a causal language model (Vicuna)."""

    family: ClassVar[str] = "instructblip"
    model_types: ClassVar[tuple[str, ...]] = ("instructblip",)
    modalities: ClassVar[tuple[str, ...]] = ("image", "text")
    card: ClassVar[Card] = Card(
        "none: a list of queries, each of which looked at the whole image",
        (
            "One image per prompt.",
            "The visual tokens depend on the prompt, which the Q-Former reads too.",
            "Language models that are encoder and decoder (T5) are refused.",
        ),
    )

    def raw_prompt(self, processor: Any, text: str, images: int, audio: int) -> str:
        """The text alone: the processor puts the queries before it; see `Adapter.raw_prompt`."""
        return text

    def process(
        self, model: "patchlens.models.model.Model", texts: list[str], requests: Sequence[Request]
    ) -> dict[str, Any]:
        """One image to a text; see `Adapter.process`."""
        return with_queries(model, texts, requests)

    def generate(self, network: Any, inputs: dict[str, Tensor], tokens: int) -> Tensor:
        """By the language model if there is no image; see `Adapter.generate`."""
        return super().generate(network if "pixel_values" in inputs else network.language_model, inputs, tokens)
