"""Mistral Small 3.1 and later, Ministral 3: Pixtral's encoder, whose grid follows the image's shape.

The image is stretched a little, until whole visual tokens cover it; each token stands for 2 × 2 patches. Rows end in
[IMG_BREAK] and the last one in [IMG_END], which are tokens of their own and hold nothing of the image.
"""

from typing import Any, ClassVar

import numpy as np

from patchlens.errors import ImageError
from patchlens.models.adapter import Adapter, Card
from patchlens.models.framing import centre_region
from patchlens.models.patch_grid import PatchGrid
from patchlens.models.token_map import Tile

__all__ = ["Mistral3Adapter", "pixtral_grid"]


class Mistral3Adapter(Adapter):
    """Mistral 3 with images."""

    family: ClassVar[str] = "mistral3"
    model_types: ClassVar[tuple[str, ...]] = ("mistral3",)
    modalities: ClassVar[tuple[str, ...]] = ("image", "text")
    card: ClassVar[Card] = Card("one grid over the image, in its own shape; rows end in separators")

    def tiles(self, config: Any, processor: Any, size: tuple[int, int], images: int) -> tuple[Tile, ...]:
        """One grid; see `Adapter.tiles`."""
        cell = config.vision_config.patch_size * config.spatial_merge_size
        grid = pixtral_grid(processor, size, cell)
        if images == len(grid) == 1:  # transformers would squeeze the tokens' axis away
            raise ImageError(
                f"Preparing an image of {size[0]} × {size[1]} pixels: it becomes one visual token, and this model "
                f"needs two or more where a prompt has one image. Enlarge it until a side has more than {cell} pixels."
            )
        return (Tile(grid),)


def pixtral_grid(processor: Any, size: tuple[int, int], cell: int) -> PatchGrid:
    """Where the visual tokens of a model with Pixtral's encoder lie.

    Args:
        processor: The model's; its own patch size is what images are resized to multiples of.
        size: (height, width) of the original image.
        cell: Side of one visual token, in pixels of the encoder's input.

    Raises:
        ImageError: An image so narrow that nothing of a side is left.
    """
    from transformers.image_utils import ChannelDimension
    from transformers.models.pixtral.image_processing_pil_pixtral import get_resize_output_image_size

    settings = processor.image_processor
    resized = size
    if settings.do_resize:
        wanted = dict(settings.size)
        height, width = get_resize_output_image_size(
            np.broadcast_to(np.uint8(0), (*size, 3)),  # it reads the shape alone
            size=tuple(wanted.get("longest_edge") or wanted[side] for side in ("height", "width")),
            patch_size=processor.patch_size * processor.spatial_merge_size,
            input_data_format=ChannelDimension.LAST,
        )
        resized = int(height), int(width)
    seen = resized
    if settings.do_center_crop:
        seen = int(settings.crop_size["height"]), int(settings.crop_size["width"])
    return PatchGrid.of_patches(size, centre_region(size, size, resized, seen), seen, cell)
