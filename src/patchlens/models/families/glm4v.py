"""GLM-4.1V, 4.5V, 4.6V and GLM-OCR: one grid over the whole image; a convolution makes one token of 2 × 2 patches."""

from functools import partial
from typing import Any, ClassVar

from patchlens.models.adapter import Adapter, Card
from patchlens.models.families.merged_grid import between_marks, merged_grid
from patchlens.models.tile import Tile

__all__ = ["Glm4vAdapter"]


class Glm4vAdapter(Adapter):
    """GLM-4.1V and those of its layout: one token for about 28 × 28 pixels, within limits."""

    family: ClassVar[str] = "glm4v"
    model_types: ClassVar[tuple[str, ...]] = ("glm4v", "glm4v_moe", "glm46v", "glm_ocr")
    modalities: ClassVar[tuple[str, ...]] = ("image", "text")
    card: ClassVar[Card] = Card("one grid over the whole image, in the image's shape")

    def tiles(self, config: Any, processor: Any, size: tuple[int, int], images: int) -> tuple[Tile, ...]:
        """One grid; see `Adapter.tiles`."""
        from transformers.models.glm4v.image_processing_pil_glm4v import smart_resize

        # Its limits count the pixels of all frames that one patch spans, and an image is repeated to fill them.
        frames = processor.image_processor.temporal_patch_size
        resize = partial(smart_resize, num_frames=frames, temporal_factor=frames)
        return merged_grid(config, processor.image_processor, size, resize)

    def raw_prompt(self, processor: Any, text: str, images: int, audio: int) -> str:
        """Images between their marks, then the line; see `Adapter.raw_prompt`."""
        return between_marks(processor.image_token, images, text, ("<|begin_of_image|>", "<|end_of_image|>"))
