"""The record of what a model held: hidden states of some tokens at some layers, with where they came from.

It knows how to keep itself in one safetensors file; it does not know how states are made or read.
"""

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from patchlens.axes import Bool, Float, Int
from patchlens.errors import OptionError, StatesError
from patchlens.inputs.audio import AudioInput, open_audio
from patchlens.inputs.image import ImageInput, open_image
from patchlens.models.patch_grid import PatchGrid
from patchlens.models.token_map import Tile, TokenMap
from patchlens.provenance import Provenance
from patchlens.storage import replacing

__all__ = ["FORMAT", "SITES", "HiddenStates"]

FORMAT = "patchlens hidden states 2"

SITES = ("language", "encoder", "projector input", "projector output")
"""Where states can be taken: the language model's residual stream, the vision encoder's blocks, before and after what
brings its output into the language model."""


@dataclass(frozen=True, eq=False)
class HiddenStates:
    """Hidden states of one prompt with what was shown and played with it, tokens in sequence order."""

    vectors: Float[Tensor, "layer token d_model"]
    """As the model computed them, in its data type, on the CPU."""

    layers: tuple[int, ...]
    """Which, ascending: 0 is what enters the first block, i the output of block i before any final norm."""

    positions: Int[Tensor, " token"]
    """Where in the sequence each token stands."""

    token_ids: Int[Tensor, " token"]
    """Vocabulary ids; the image placeholder's at visual tokens."""

    tokens: TokenMap
    """What each token holds and where it lies."""

    sources: tuple[ImageInput | AudioInput, ...]
    """The images and recordings that the map's source numbers mean; none for text alone."""

    prompt: str
    """As the person gave it, before any chat template."""

    provenance: Provenance
    """How it was made."""

    site: str = "language"
    """Where they were taken: see `capture`."""

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def visual(self) -> Bool[Tensor, " token"]:
        """Which tokens came from an image or a recording; fillers and separators did not."""
        return self.tokens.visual

    @property
    def image(self) -> ImageInput | None:
        """The only image; None without one, or with several."""
        images = [source for source in self.sources if isinstance(source, ImageInput)]
        return images[0] if len(images) == 1 else None

    @property
    def grid(self) -> PatchGrid | None:
        """Where the visual tokens lie, if they lie in one grid; None otherwise, and then `tokens` says where."""
        tiles = [tile for found in self.tokens.layout for tile in found]
        return tiles[0].grid if len(tiles) == 1 else None

    def __repr__(self) -> str:
        seen = ", ".join(f"'{source.name}'" for source in self.sources) or "text"
        layers = ",".join(map(str, self.layers))
        return f"<HiddenStates of {seen}: {len(self)} tokens × layers {layers}, from {self.provenance.model}>"

    def at(self, layer: int) -> Float[Tensor, "token d_model"]:
        """Give all tokens' states at one layer.

        Args:
            layer: One of `layers`.

        Raises:
            OptionError: That layer was not captured.
        """
        if layer not in self.layers:
            raise OptionError(
                f"Layer {layer} is not among the captured ones ({', '.join(map(str, self.layers))}). Capture "
                f"again with layers that include {layer}."
            )
        return self.vectors[self.layers.index(layer)]

    def take(self, tokens: Int[Tensor, " chosen"]) -> "HiddenStates":
        """Keep some of the tokens.

        Args:
            tokens: Their numbers, from 0 to `len(self) - 1`, in the order in which they are wanted.

        Raises:
            OptionError: There is no such token.
        """
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < len(self):
            raise OptionError(
                f"Tokens {int(tokens.min())} to {int(tokens.max())} were asked of {len(self)} captured ones. Choose "
                "from 0 on, below their count."
            )
        return replace(
            self,
            vectors=self.vectors[:, tokens],
            positions=self.positions[tokens],
            token_ids=self.token_ids[tokens],
            tokens=self.tokens.take(tokens),
        )

    def save(self, path: str | Path) -> Path:
        """Write everything to one safetensors file, images and recordings included.

        Args:
            path: The file to make or replace.

        Returns:
            The path.

        Raises:
            StorageError: The disk refused.
        """
        tensors = {
            "vectors": self.vectors,
            "positions": self.positions,
            "token_ids": self.token_ids,
            **self.tokens.to_tensors(),
            **{f"source_{number}": _pixels_or_samples(source) for number, source in enumerate(self.sources)},
        }
        with replacing(Path(path)) as temporary:
            contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
            # Not by safetensors' save_file, which hides what the disk said and makes files for the owner alone.
            temporary.write_bytes(to_bytes(contiguous, metadata=self._metadata()))
        return Path(path)

    @classmethod
    def open(cls, path: str | Path) -> "HiddenStates":
        """Read a file that `save` wrote.

        Args:
            path: The file.

        Raises:
            StatesError: It is missing, damaged, or not one of ours.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except FileNotFoundError as error:
            raise StatesError(f"Opening hidden states: there is no file {path}. Check the path.") from error
        except (SafetensorError, OSError) as error:
            raise StatesError(
                f"Opening hidden states: {path} is damaged, cut short or no safetensors file ({error}). "
                "Capture them again."
            ) from error
        if metadata.get("format") != FORMAT:
            raise StatesError(
                f"Opening hidden states: {path} says its format is {metadata.get('format')!r}; this release "
                f"reads '{FORMAT}'. Give a file that HiddenStates.save wrote."
            )
        try:
            return cls._restored(tensors, metadata)
        except Exception as error:  # bytes that somebody edited can raise anything, in Pillow above all
            raise StatesError(
                f"Opening hidden states: {path} was edited or is incomplete ({error}). Capture them again."
            ) from error

    def _metadata(self) -> dict[str, str]:
        fields: dict[str, Any] = {
            "layers": list(self.layers),
            "layout": [[tile.to_json() for tile in tiles] for tiles in self.tokens.layout],
            "sources": [_described(source) for source in self.sources],
            "prompt": self.prompt,
            "site": self.site,
            "provenance": self.provenance.to_json(),
        }
        return {"format": FORMAT, **{name: json.dumps(value) for name, value in fields.items()}}

    @classmethod
    def _restored(cls, tensors: dict[str, Tensor], metadata: dict[str, str]) -> "HiddenStates":
        fields = {name: json.loads(text) for name, text in metadata.items() if name != "format"}
        _check(tensors, fields)
        layout = [[Tile.from_json(tile) for tile in tiles] for tiles in fields["layout"]]
        return cls(
            vectors=tensors["vectors"],
            layers=tuple(fields["layers"]),
            positions=tensors["positions"],
            token_ids=tensors["token_ids"],
            tokens=TokenMap.from_tensors(tensors, layout),
            sources=tuple(_source(tensors[f"source_{n}"], about) for n, about in enumerate(fields["sources"])),
            prompt=fields["prompt"],
            provenance=Provenance.from_json(fields["provenance"]),
            site=fields["site"],
        )


def _check(tensors: dict[str, Tensor], fields: dict[str, Any]) -> None:
    """Raise ValueError unless everything has its type and as many tokens and layers as the rest."""
    layers = fields["layers"]
    if not all(type(layer) is int and layer >= 0 for layer in layers) or layers != sorted(set(layers)):
        raise ValueError(f"layers {layers}")
    tokens = tensors["positions"].shape
    for name in ("positions", "token_ids", "kinds"):
        tensor = tensors[name]
        if tensor.ndim != 1 or tensor.shape != tokens:
            raise ValueError(f"{name} of shape {tuple(tensor.shape)} for positions of shape {tuple(tokens)}")
        if tensor.is_floating_point() or tensor.dtype == torch.bool:
            raise ValueError(f"{name} of type {tensor.dtype}")
    vectors = tensors["vectors"]
    if vectors.ndim != 3 or vectors.shape[:2] != (len(layers), *tokens) or not vectors.is_floating_point():
        raise ValueError(f"vectors of shape {tuple(vectors.shape)} in {vectors.dtype} for {tokens.numel()} tokens")
    if not isinstance(fields["prompt"], str) or fields["site"] not in SITES:
        raise ValueError(f"prompt {fields['prompt']!r} at the site {fields['site']!r}")
    if len(fields["layout"]) not in (0, len(fields["sources"])):
        raise ValueError(f"a layout of {len(fields['layout'])} sources, of which there are {len(fields['sources'])}")


def _described(source: ImageInput | AudioInput) -> dict[str, Any]:
    about = {"name": source.name, "source": source.source}
    return about if isinstance(source, ImageInput) else {**about, "rate": source.rate}


def _pixels_or_samples(source: ImageInput | AudioInput) -> Tensor:
    if isinstance(source, AudioInput):
        return torch.from_numpy(source.samples.copy())
    buffer = io.BytesIO()
    source.pixels.save(buffer, "PNG")
    return torch.from_numpy(np.frombuffer(buffer.getvalue(), np.uint8).copy())


def _source(kept: Tensor, about: dict[str, Any]) -> ImageInput | AudioInput:
    """Through the functions that open them, which compute the hash from what was kept."""
    name, path = about["name"], about["source"]
    if not isinstance(name, str) or not isinstance(path, str | None):
        raise ValueError(f"a source {about}")
    if "rate" in about:
        return replace(open_audio((kept.numpy(), int(about["rate"])), name=name), source=path)
    from PIL import Image

    return replace(open_image(Image.open(io.BytesIO(kept.numpy().tobytes())), name=name), source=path)
