"""What families with an `image_grid_thw` share: the image is stretched to whole cells, and each cell becomes one token.

A cell is some patches of the vision encoder, as a rule 2 × 2, which its merger joins. Nothing is cropped, padded or
tiled: one grid covers the whole image, row by row, and its shape follows the image's. These processors do not write the
marks around an image; the prompt has them.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from patchlens.errors import ImageError
from patchlens.models.patch_grid import PatchGrid
from patchlens.models.tile import Tile
from patchlens.models.tiling import whole

__all__ = ["between_marks", "merged_grid", "qwen_prompt", "qwen_tiles", "qwen_video_grid"]


def merged_grid(
    config: Any, image_processor: Any, size: tuple[int, int], resize: Callable[..., tuple[int, int]]
) -> tuple[Tile]:
    """The one tile of an image.

    Args:
        config: The model's whole config; its vision config says how many pixels a token has.
        image_processor: The model's; its settings say how many pixels an image may have.
        size: (height, width) of the original upright image, in pixels.
        resize: The processor's rule: from `height`, `width`, `factor`, `min_pixels` and `max_pixels` to the (height,
            width) that the encoder sees.

    Raises:
        ImageError: The rule refuses an image of this shape.
    """
    vision, seen = config.vision_config, size
    if image_processor.do_resize:
        limits = dict(image_processor.size)
        try:
            seen = resize(
                height=size[0],
                width=size[1],
                factor=image_processor.patch_size * image_processor.merge_size,
                min_pixels=limits["shortest_edge"],
                max_pixels=limits["longest_edge"],
            )
        except ValueError as error:
            raise ImageError(
                f"Preparing an image of {size[0]} × {size[1]} pixels: this model's processor refuses it ({error}). "
                "Crop it to a usual shape first."
            ) from error
    return (Tile(PatchGrid.of_patches(size, whole(size), seen, vision.patch_size * vision.spatial_merge_size)),)


def qwen_tiles(config: Any, processor: Any, size: tuple[int, int]) -> tuple[Tile]:
    """The one tile of an image, by the rule that Qwen's models share; see `merged_grid`."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    return merged_grid(config, processor.image_processor, size, smart_resize)


def qwen_video_grid(config: Any, inputs: dict[str, Tensor], video: int) -> tuple[int, int, int]:
    """Moments, rows and columns of a video, from what the processor says of it; see `Adapter.video_grid`."""
    moments, height, width = inputs["video_grid_thw"][video].tolist()
    merged = config.vision_config.spatial_merge_size
    return moments, height // merged, width // merged


def qwen_prompt(processor: Any, text: str, images: int) -> str:
    """A line as the chat templates of Qwen's models write it; see `between_marks`."""
    return between_marks(processor.image_token, images, text, ("<|vision_start|>", "<|vision_end|>"))


def between_marks(image: str, count: int, text: str, marks: tuple[str, str]) -> str:
    """A line as the families' chat templates write it: the images first, each between its marks, nothing after them.

    Args:
        image: The placeholder of one image.
        count: How many images.
        text: What follows them.
        marks: Before and after each image.
    """
    begin, end = marks
    return f"{begin}{image}{end}" * count + text
