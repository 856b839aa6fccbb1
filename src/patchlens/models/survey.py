"""What a model is and what it would cost, from its config and processor: no weight is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMultimodalLM

from patchlens.errors import ModelIncomplete, OptionError
from patchlens.inputs.image import MAX_PIXELS
from patchlens.models.adapter import Adapter
from patchlens.models.loading import processor_of
from patchlens.models.model import text_decoder
from patchlens.models.quiet import quiet
from patchlens.models.registry import adapter_for
from patchlens.models.source import Source, find_source, loading_of, read_config
from patchlens.models.tile import Tile

__all__ = ["ImageCost", "Survey", "survey"]

SIZES = ((336, 336), (480, 640), (1080, 1920))
"""(height, width) of the images that are counted where none is asked for."""


@dataclass(frozen=True)
class ImageCost:
    """What one image of some size becomes."""

    size: tuple[int, int]
    """(height, width), in pixels."""

    tiles: tuple[Tile, ...]
    """Empty where no geometry is known."""

    visual_tokens: int | None
    """Visual tokens without fillers; None where the family has no geometry."""

    fillers: int
    """Placeholders of the image that are no visual token."""

    capture_bytes: int | None
    """What the hidden states of its visual tokens take at all layers."""


@dataclass(frozen=True)
class Survey:
    """What a model is."""

    name: str
    adapter: Adapter
    model_type: str
    n_layers: int
    """Blocks of the language model."""
    d_model: int
    vocabulary: int
    positions: int | None
    """The longest sequence it was made for."""
    parameters: int
    """Of the whole model."""
    language_parameters: int
    """Of the language model alone."""
    dtype: torch.dtype
    """As the weights are stored, or as asked for."""
    images: tuple[ImageCost, ...]

    @property
    def weight_bytes(self) -> int:
        """What all weights take in `dtype`."""
        return self.parameters * self.dtype.itemsize


def survey(
    model: str,
    *,
    sizes: Sequence[tuple[int, int]] = SIZES,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    trust_remote_code: bool = False,
) -> Survey:
    """Say what a model is, from its config and processor.

    Args:
        model: As for `load_model`.
        sizes: (height, width) of images to count visual tokens for.
        revision: As for `load_model`.
        dtype: As for `load_model`.
        trust_remote_code: As for `load_model`.

    Raises:
        ModelNotFound: There is no such embedded model, folder or Hub id.
        ModelIncomplete: Its config or processor is missing or damaged.
        UnknownFamily: No adapter serves this model type.
        ImageError: An image of that size cannot be shown to it.
    """
    for size in sizes:
        if min(size) < 2 or size[0] * size[1] > MAX_PIXELS:
            raise OptionError(
                f"Counting visual tokens of {size[0]} × {size[1]} pixels. Expected at least 2 × 2, and at most "
                f"{MAX_PIXELS // 1_000_000} million pixels."
            )
    source = find_source(model, revision)
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    fields = read_config(source, revision)
    adapter = adapter_for(fields)
    with loading_of("config", source):
        config = AutoConfig.from_pretrained(source.place, **options)
    network = _empty(source, adapter, config, trust_remote_code)
    decoder = text_decoder(network)
    text = config.get_text_config()
    stored = _dtype(dtype, config, fields)
    processor = processor_of(source, adapter, options) if "image" in adapter.modalities else None
    width = int(network.get_input_embeddings().weight.shape[1])
    layers = len(next(getattr(decoder, name) for name in ("layers", "h", "blocks") if hasattr(decoder, name)))
    kept = 1 if adapter.beside_sequence else layers + 1  # what lies beside the sequence passes through no block
    each = kept * width * stored.itemsize
    return Survey(
        name=source.name,
        adapter=adapter,
        model_type=str(fields["model_type"]),
        n_layers=layers,
        d_model=width,
        vocabulary=int(network.get_input_embeddings().weight.shape[0]),
        positions=getattr(text, "max_position_embeddings", None),
        parameters=_count(network),
        language_parameters=_count(decoder) + _head(network),
        dtype=stored,
        images=tuple(_image(adapter, config, processor, size, each) for size in sizes) if processor is not None else (),
    )


def _empty(source: Source, adapter: Adapter, config: Any, trust_remote_code: bool) -> Any:
    loader: Any = AutoModelForCausalLM if adapter.modalities == ("text",) else AutoModelForMultimodalLM
    try:
        with quiet(), torch.device("meta"):
            return loader.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise ModelIncomplete(
            f"Building {source.name} from its config failed: {type(error).__name__}: {error}. Its config.json is "
            "damaged, "
            "or of another release of transformers; download it again."
        ) from error


def _dtype(asked: str | torch.dtype, config: Any, fields: dict[str, Any]) -> torch.dtype:
    if isinstance(asked, torch.dtype):
        return asked
    if asked != "auto":
        found = getattr(torch, asked, None)
        if asked not in ("float32", "bfloat16", "float16") or not isinstance(found, torch.dtype):
            raise OptionError(f"Cannot count in {asked!r}. Choose among auto, float32, bfloat16, float16.")
        return found
    for name in (config.dtype, getattr(config.get_text_config(), "dtype", None)):
        if isinstance(name, torch.dtype):
            return name
    return torch.float32


def _image(adapter: Adapter, config: Any, processor: Any, size: tuple[int, int], each: int) -> ImageCost:
    tiles = adapter.tiles(config, processor, size, 1)
    if tiles is None:
        return ImageCost(size, (), None, 0, None)
    tokens = sum(len(tile.grid) for tile in tiles)
    return ImageCost(size, tiles, tokens, sum(map(len, tiles)) - tokens, tokens * each)


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _head(network: Any) -> int:
    """The output embeddings, where they are not the input embeddings again."""
    head = network.get_output_embeddings()
    if head is None or getattr(network.config, "tie_word_embeddings", False):
        return 0
    return _count(head)
