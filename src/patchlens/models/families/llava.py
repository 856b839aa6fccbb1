"""LLaVA: a vision encoder, an MLP projector and a causal language model; one grid of visual tokens.

CLIP and DINOv2 put a class token first, which `vision_feature_select_strategy="default"` drops; SigLIP has none and
uses "full". With Pixtral's encoder the grid follows the image's shape and rows end in tokens of their own. Encoders
with other tokens on image positions (registers) are refused.
"""

from typing import Any, ClassVar

from patchlens.errors import UnknownFamily
from patchlens.models.adapter import Adapter, Card
from patchlens.models.families.mistral3 import pixtral_grid
from patchlens.models.framing import framed_grid
from patchlens.models.token_map import Tile

__all__ = ["LlavaAdapter"]

_ENCODERS = ("clip_vision_model", "dinov2", "siglip_vision_model")


class LlavaAdapter(Adapter):
    """LLaVA 1.5 and every model saved in its architecture."""

    family: ClassVar[str] = "llava"
    model_types: ClassVar[tuple[str, ...]] = ("llava",)
    modalities: ClassVar[tuple[str, ...]] = ("image", "text")
    card: ClassVar[Card] = Card(
        "one grid over the image, or its centre if the processor crops; in the image's shape with Pixtral's encoder"
    )
    bare_head: ClassVar[bool] = True

    def tiles(self, config: Any, processor: Any, size: tuple[int, int], images: int) -> tuple[Tile, ...]:
        """One grid; see `Adapter.tiles`."""
        vision = config.vision_config
        if vision.model_type == "pixtral":
            return (Tile(pixtral_grid(processor, size, vision.patch_size)),)
        if vision.model_type not in _ENCODERS:
            raise UnknownFamily(
                f"This LLaVA model has a vision encoder of type '{vision.model_type}'. patchlens knows the layout of "
                f"{', '.join(_ENCODERS)} and pixtral; choose a model with one of these."
            )
        return (Tile(framed_grid(processor.image_processor, size, vision.patch_size)),)
