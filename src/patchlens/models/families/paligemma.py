"""PaliGemma 1 and 2: the patches of the whole image in one grid, the first tokens of the prompt.

The image is stretched to the encoder's square. There is no chat template: the processor itself puts a begin token
between image and text, and a line's end behind. All of that is a prefix whose tokens see each other; an answer's tokens
see those before them.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from patchlens.axes import Int
from patchlens.models.adapter import Adapter, Card, Request
from patchlens.models.framing import framed_grid
from patchlens.models.token_map import Tile

if TYPE_CHECKING:
    import patchlens.models.model

__all__ = ["PaliGemmaAdapter"]


class PaliGemmaAdapter(Adapter):
    """PaliGemma: one token per patch of SigLIP."""

    family: ClassVar[str] = "paligemma"
    model_types: ClassVar[tuple[str, ...]] = ("paligemma",)
    modalities: ClassVar[tuple[str, ...]] = ("image", "text")
    card: ClassVar[Card] = Card(
        "one grid over the image",
        (
            "Image and prompt see each other in both directions; a bank's contexts are causal.",
            "The processor switches the tokenizer's begin token off, so a bank's contexts have none.",
        ),
    )
    bare_head: ClassVar[bool] = True

    def settle(self, network: nn.Module) -> None:
        """Make text alone causal, as it is with eager attention.

        Its attention says of itself that it is not causal, and sdpa asks it where there is no mask: with text alone and
        no padding. Image prompts have a mask. Flash attention has none for them either, and is left as it is.
        """
        from patchlens.models.model import text_decoder

        decoder: Any = text_decoder(network)
        if "flash" in decoder.config._attn_implementation:
            return
        for part in decoder.modules():
            if hasattr(part, "is_causal"):
                part.is_causal = True

    def tiles(self, config: Any, processor: Any, size: tuple[int, int], images: int) -> tuple[Tile, ...]:
        """One grid; see `Adapter.tiles`."""
        return (Tile(framed_grid(processor.image_processor, size, config.vision_config.patch_size)),)

    def raw_prompt(self, processor: Any, text: str, images: int, audio: int) -> str:
        """Images and text without a line between; the processor adds the rest, but not where there is no image."""
        if not images:
            return f"{processor.tokenizer.bos_token}{text}\n"
        return self.placeholder(processor, "image") * images + text

    def process(
        self, model: "patchlens.models.model.Model", texts: list[str], requests: Sequence[Request]
    ) -> dict[str, Any]:
        """Without the labels that the processor adds for training; see `Adapter.process`."""
        made = super().process(model, texts, requests)
        return {name: value for name, value in made.items() if name != "labels"}

    def continued(self, inputs: dict[str, Tensor], answer: Int[Tensor, "1 answer"]) -> dict[str, Tensor]:
        """An answer is no part of the prefix: its type is 1; see `Adapter.continued`."""
        longer = super().continued(inputs, answer)
        if (types := inputs.get("token_type_ids")) is not None:
            longer["token_type_ids"] = torch.cat([types, torch.ones_like(answer, dtype=types.dtype)], dim=1)
        return longer
