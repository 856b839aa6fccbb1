"""Llama 4: equal tiles row by row, separators between them, then a thumbnail of the whole if there are several.

The image keeps its shape and lies at the upper left of a canvas of tiles; the rest of the canvas is padding. The
thumbnail is stretched to a square. The processor needs torchvision.
"""

from typing import Any, ClassVar

from patchlens.models.adapter import Adapter, Card
from patchlens.models.patch_grid import PatchGrid
from patchlens.models.tile import Tile
from patchlens.models.tiling import even_tiles, whole

__all__ = ["Llama4Adapter"]


class Llama4Adapter(Adapter):
    """Llama 4: up to 16 tiles and a thumbnail, one visual token per four patches."""

    family: ClassVar[str] = "llama4"
    model_types: ClassVar[tuple[str, ...]] = ("llama4",)
    modalities: ClassVar[tuple[str, ...]] = ("image", "text")
    card: ClassVar[Card] = Card(
        "tiles row by row on a canvas padded below or at the right, then a thumbnail of the whole",
        notes=("its processor needs torchvision",),
    )

    def tiles(self, config: Any, processor: Any, size: tuple[int, int], images: int) -> tuple[Tile, ...]:
        """Tiles and thumbnail; see `Adapter.tiles`."""
        import torch
        from transformers.models.llama4 import image_processing_llama4 as theirs

        settings = processor.image_processor
        side = settings.size.height
        shapes = torch.tensor(theirs.find_supported_resolutions(settings.max_patches, settings.size))
        height, width = theirs.get_best_fit(size, shapes, settings.resize_to_max_canvas).tolist()
        room = (height, width)
        if not settings.resize_to_max_canvas:  # never enlarged beyond one tile
            room = (min(max(size[0], side), height), min(max(size[1], side), width))
        shown = theirs.get_max_res_without_distortion(size, room)
        across = int(side // processor.patch_size * config.vision_config.pixel_shuffle_ratio)
        everything = PatchGrid(across, across, size, whole(size))
        if (height, width) == (side, side):
            canvas = _canvas(size, (height, width), shown)
            return (Tile(PatchGrid(across, across, size, canvas)),)
        parts = even_tiles(
            size, _canvas(size, (height, width), shown), (height // side, width // side), (across, across)
        )
        return (*parts, Tile(everything, "thumbnail"))


def _canvas(
    size: tuple[int, int], canvas: tuple[int, int], shown: tuple[int, int]
) -> tuple[float, float, float, float]:
    """What a canvas covers of the original, which fills (height, width) `shown` of it at the upper left."""
    return 0.0, 0.0, canvas[0] * size[0] / max(shown[0], 1), canvas[1] * size[1] / max(shown[1], 1)
