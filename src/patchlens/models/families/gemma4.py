"""Gemma 4: one grid in the image's own shape, framed by marks for its begin and end.

The image is stretched a little to whole cells, as many as the image processor's budget allows; each token is the
average of a square of patches. Recordings and videos are not read.
"""

from typing import Any, ClassVar

from patchlens.errors import ImageError, ModelIncomplete
from patchlens.models.adapter import Adapter, Card
from patchlens.models.patch_grid import PatchGrid
from patchlens.models.tiling import whole
from patchlens.models.token_map import Tile

__all__ = ["Gemma4Adapter"]


class Gemma4Adapter(Adapter):
    """Gemma 4 with its vision encoder."""

    family: ClassVar[str] = "gemma4"
    model_types: ClassVar[tuple[str, ...]] = ("gemma4",)
    modalities: ClassVar[tuple[str, ...]] = ("image", "text")
    card: ClassVar[Card] = Card(
        "one grid in the image's own shape",
        (
            "With use_bidirectional_attention='vision', tokens of one image see each other in both directions within "
            "the sliding window; a bank's contexts are causal.",
            "With per-layer embeddings, blocks add a vector of their own per word; visual tokens get the padding's.",
        ),
    )

    def tiles(self, config: Any, processor: Any, size: tuple[int, int], images: int) -> tuple[Tile, ...]:
        """One grid; see `Adapter.tiles`."""
        from transformers.models.gemma4.image_processing_pil_gemma4 import get_aspect_ratio_preserving_size

        settings = processor.image_processor
        pooled = settings.pooling_kernel_size
        cell = settings.patch_size * pooled
        seen = size
        if settings.do_resize:
            budget = settings.max_soft_tokens * pooled**2
            seen = get_aspect_ratio_preserving_size(*size, settings.patch_size, budget, pooled)
        elif size[0] % cell or size[1] % cell:
            raise ModelIncomplete(
                f"An image of {size[0]} × {size[1]} pixels is not whole cells of {cell} × {cell}, and without resizing "
                "its tokens would be no grid. Set do_resize=True in the image processor, or resize the image."
            )
        rows, columns = (side // settings.patch_size for side in seen)
        if max(rows, columns) > (places := config.vision_config.position_embedding_size):
            raise ImageError(
                f"Preparing an image of {size[0]} × {size[1]} pixels: it becomes {rows} × {columns} patches, and this "
                f"model's encoder has positions for at most {places} along a side. It is too narrow; crop it to a "
                "usual shape first."
            )
        return (Tile(PatchGrid.of_patches(size, whole(size), seen, cell)),)
