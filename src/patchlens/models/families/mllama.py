"""Mllama (Llama 3.2 Vision): cross-attention, so its visual tokens lie beside the sequence and not in it.

A prompt has one image token per image. What the projector gives has one row per image, slot for a tile and patch, each
tile's class token first; slots beyond an image's own tiles are padding. An image is fitted into the upper left corner
of a canvas of whole tiles, so that cells at its lower or right edge may lie outside the image.
"""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from patchlens.axes import Int
from patchlens.models.adapter import Adapter, Card, Request
from patchlens.models.patch_grid import PatchGrid
from patchlens.models.tiling import even_tiles
from patchlens.models.token_map import KINDS, Tile, TokenMap

if TYPE_CHECKING:
    import patchlens.models.model

__all__ = ["MllamaAdapter"]


class MllamaAdapter(Adapter):
    """Llama 3.2 Vision: up to four tiles on a padded canvas, seen by cross-attention."""

    family: ClassVar[str] = "mllama"
    model_types: ClassVar[tuple[str, ...]] = ("mllama",)
    modalities: ClassVar[tuple[str, ...]] = ("image", "text")
    card: ClassVar[Card] = Card(
        "tiles row by row on a canvas padded below or at the right; beside the sequence, by cross-attention",
        (
            "Visual tokens have layer 0 alone: blocks look at them, and do not change them.",
            "Without an image the cross-attention blocks are skipped, so a bank's states pass through fewer blocks.",
            "The site 'encoder' is the local encoder; the global one behind it is not shown.",
        ),
    )
    beside_sequence: ClassVar[bool] = True

    def settle(self, network: nn.Module) -> None:
        """Silence what transformers 5.18 says of its own code; see `Adapter.settle`."""
        warnings.filterwarnings("ignore", "`hidden_state` is deprecated", FutureWarning)

    def tiles(self, config: Any, processor: Any, size: tuple[int, int], images: int) -> tuple[Tile, ...]:
        """The tiles of the canvas; see `Adapter.tiles`."""
        from transformers.models.mllama.image_processing_pil_mllama import (
            get_image_size_fit_to_canvas,
            get_optimal_tiled_canvas,
        )

        settings = processor.image_processor
        side = int(settings.size["height"])
        canvas = [int(length) for length in get_optimal_tiled_canvas(*size, settings.max_image_tiles, side)]
        fitted = get_image_size_fit_to_canvas(*size, *canvas, side)
        shown = tuple(size[axis] * canvas[axis] / int(fitted[axis]) for axis in (0, 1))
        region = (0.0, 0.0, shown[0], shown[1])
        across = side // config.vision_config.patch_size
        if canvas == [side, side]:
            return (Tile(PatchGrid(across, across, size, region)),)
        return even_tiles(size, region, (canvas[0] // side, canvas[1] // side), (across, across))

    def raw_prompt(self, processor: Any, text: str, images: int, audio: int) -> str:
        """Image tokens before everything, as the base model was trained; see `Adapter.raw_prompt`."""
        return self.placeholder(processor, "image") * images + text

    def process(
        self, model: "patchlens.models.model.Model", texts: list[str], requests: Sequence[Request]
    ) -> dict[str, Any]:
        """The processor puts the begin of the text behind leading image tokens itself; see `Adapter.process`."""
        made = model.processor(
            text=texts,
            images=[[image.pixels for image in request.images] for request in requests],
            return_tensors="pt",
            padding=True,
            padding_side="right",
            add_special_tokens=False,
        )
        return dict(made)

    def continued(self, inputs: dict[str, Tensor], answer: Int[Tensor, "1 answer"]) -> dict[str, Tensor]:
        """An answer looks at the tiles that the last token of the prompt looks at; see `Adapter.continued`."""
        longer = super().continued(inputs, answer)
        if (mask := inputs.get("cross_attention_mask")) is not None:  # [1, position, image, tile]
            longer["cross_attention_mask"] = torch.cat([mask, mask[:, -1:].expand(-1, answer.shape[1], -1, -1)], dim=1)
        return longer

    def visual_module(self, network: nn.Module) -> nn.Module:
        """The projector; see `Adapter.visual_module`."""
        return network.get_submodule("model.multi_modal_projector")

    def visual_map(self, config: Any, processor: Any, request: Request) -> TokenMap:
        """Rows by image, slot and patch; see `Adapter.visual_map`."""
        images, slots = len(request.images), int(processor.image_processor.max_image_tiles)
        layout = tuple(self.tiles(config, processor, image.size, images) for image in request.images)
        rows = 1 + len(layout[0][0].grid)  # the class token first
        sources, tiles, cells = (
            part.flatten()
            for part in torch.meshgrid(torch.arange(images), torch.arange(slots), torch.arange(rows) - 1, indexing="ij")
        )
        patches = (cells >= 0) & (tiles < torch.tensor([len(found) for found in layout])[sources])
        none = torch.full_like(cells, -1)
        return TokenMap(
            kinds=torch.where(patches, KINDS.index("patch"), KINDS.index("filler")),
            sources=sources,
            tiles=torch.where(patches, tiles, none),
            cells=torch.where(patches, cells, none),
            seconds=torch.full((len(cells), 2), torch.nan),
            layout=layout,
        )
