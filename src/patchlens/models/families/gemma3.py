"""Gemma 3: the whole image in one square grid of averaged patches, framed by marks for its begin and end.

With pan and scan, a wide or tall image is followed by crops of it, each a grid of its own, with English words between.
The text has the mark for the begin where an image goes; the visual tokens have an id of their own.
"""

from typing import Any, ClassVar

import numpy as np

from patchlens.models.adapter import Adapter, Card
from patchlens.models.patch_grid import PatchGrid
from patchlens.models.tiling import whole
from patchlens.models.token_map import Tile

__all__ = ["Gemma3Adapter"]


class Gemma3Adapter(Adapter):
    """Gemma 3 with its vision encoder."""

    family: ClassVar[str] = "gemma3"
    model_types: ClassVar[tuple[str, ...]] = ("gemma3",)
    modalities: ClassVar[tuple[str, ...]] = ("image", "text")
    card: ClassVar[Card] = Card(
        "one grid over the image, then one over each crop if pan and scan is on",
        (
            "Tokens of one grid see each other in both directions; a bank's contexts are causal.",
            "Pan and scan is on if the image processor has do_pan_and_scan=True; transformers alone would not ask it.",
        ),
    )
    bare_head: ClassVar[bool] = True

    def tiles(self, config: Any, processor: Any, size: tuple[int, int], images: int) -> tuple[Tile, ...]:
        """The image and its crops; see `Adapter.tiles`."""
        side, patch = config.vision_config.image_size, config.vision_config.patch_size
        cell = patch * (side // patch // int(config.mm_tokens_per_image**0.5))

        def grid(region: tuple[float, float, float, float]) -> PatchGrid:
            return PatchGrid.of_patches(size, region, (side, side), cell)

        crops = _crops(self.settings(processor), size)
        if not crops:
            return (Tile(grid(whole(size))),)
        tall = crops[0][3] == size[1]
        parts = [Tile(grid(crop), "tile", (n, 0) if tall else (0, n)) for n, crop in enumerate(crops)]
        return (Tile(grid(whole(size)), "thumbnail"), *parts)

    def settings(self, processor: Any) -> dict[str, Any]:
        """The processor's defaults for pan and scan would hide what its image processor is set to."""
        defaults = processor.valid_processor_kwargs._defaults["images_kwargs"]
        own = {name: getattr(processor.image_processor, name, None) for name in defaults if "pan_and_scan" in name}
        return {name: defaults[name] if value is None else value for name, value in own.items()}


def _crops(settings: dict[str, Any], size: tuple[int, int]) -> list[tuple[float, float, float, float]]:
    """(top, left, bottom, right) of each crop; they follow each other along the longer side."""
    if not settings["do_pan_and_scan"]:
        return []
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    limits = {name: value for name, value in settings.items() if name != "do_pan_and_scan"}
    found = []
    top = left = 0.0
    shape_alone = np.broadcast_to(np.uint8(0), (1, *size))
    for crop in Gemma3ImageProcessorPil().pan_and_scan(shape_alone, **limits):
        height, width = crop.shape[1:]
        found.append((top, left, top + height, left + width))
        top, left = (top, left + width) if height == size[0] else (top + height, left)
    return found
