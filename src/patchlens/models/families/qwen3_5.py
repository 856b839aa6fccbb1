"""Qwen3.5: one grid over the whole image, at about its own resolution; one token for 2 × 2 patches.

Most blocks of its language model are linear attention, which carries one state from token to token.
"""

from typing import Any, ClassVar

from torch import Tensor

from patchlens.models.adapter import Adapter, Card
from patchlens.models.families.merged_grid import qwen_prompt, qwen_tiles, qwen_video_grid
from patchlens.models.tile import Tile

__all__ = ["Qwen35Adapter"]


class Qwen35Adapter(Adapter):
    """Qwen3.5: one token for about 32 × 32 pixels, within the processor's limits."""

    family: ClassVar[str] = "qwen3_5"
    model_types: ClassVar[tuple[str, ...]] = ("qwen3_5", "qwen3_5_moe")
    modalities: ClassVar[tuple[str, ...]] = ("image", "video", "text")
    card: ClassVar[Card] = Card(
        "one grid over the whole image, in the image's shape",
        notes=("most blocks are linear attention, which no mask restricts: sentences are run one by one for a bank",),
    )

    def tiles(self, config: Any, processor: Any, size: tuple[int, int], images: int) -> tuple[Tile, ...]:
        """One grid; see `Adapter.tiles`."""
        return qwen_tiles(config, processor, size)

    def raw_prompt(self, processor: Any, text: str, images: int, audio: int) -> str:
        """Images between their marks, then the line; see `Adapter.raw_prompt`."""
        return qwen_prompt(processor, text, images)

    def video_grid(self, config: Any, inputs: dict[str, Tensor], video: int) -> tuple[int, int, int]:
        """One grid for each moment; see `Adapter.video_grid`."""
        return qwen_video_grid(config, inputs, video)
