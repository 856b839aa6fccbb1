"""The record of what a model held: hidden states of some tokens at some layers, with where they came from.

It knows how to keep itself in one safetensors file; it does not know how states are made or read.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from patchlens.axes import Bool, Float, Int
from patchlens.errors import OptionError, StatesError
from patchlens.inputs.image import ImageInput, open_image
from patchlens.models.patch_grid import PatchGrid
from patchlens.provenance import Provenance
from patchlens.storage import replacing

__all__ = ["HiddenStates"]

_FORMAT = "patchlens hidden states 1"


@dataclass(frozen=True, eq=False)
class HiddenStates:
    """Hidden states of one image and prompt, tokens in sequence order."""

    vectors: Float[Tensor, "layer token d_model"]
    """As the model computed them, in its data type, on the CPU."""

    layers: tuple[int, ...]
    """Which, ascending: 0 is what enters the first block, i the output of block i before any final norm."""

    positions: Int[Tensor, " token"]
    """Where in the sequence each token stands."""

    token_ids: Int[Tensor, " token"]
    """Vocabulary ids; the image placeholder's at visual tokens."""

    visual: Bool[Tensor, " token"]
    """Which tokens came from the image; in (row, column) order among themselves."""

    grid: PatchGrid | None
    """Where the visual tokens lie; None without an image."""

    image: ImageInput | None
    """The image; None for text alone."""

    prompt: str
    """As the person gave it, before any chat template."""

    provenance: Provenance
    """How it was made."""

    def __len__(self) -> int:
        return len(self.positions)

    def __repr__(self) -> str:
        seen = "text" if self.image is None else f"'{self.image.name}'"
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

    def save(self, path: str | Path) -> Path:
        """Write everything to one safetensors file, the image included.

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
            "visual": self.visual,
        }
        if self.image is not None:
            tensors["image"] = _png(self.image)
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
        if metadata.get("format") != _FORMAT:
            raise StatesError(
                f"Opening hidden states: {path} says its format is {metadata.get('format')!r}; this release "
                f"reads '{_FORMAT}'. Give a file that HiddenStates.save wrote."
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
            "grid": self.grid and self.grid.to_json(),
            "image": self.image and {"name": self.image.name, "source": self.image.source},
            "prompt": self.prompt,
            "provenance": self.provenance.to_json(),
        }
        return {"format": _FORMAT, **{name: json.dumps(value) for name, value in fields.items()}}

    @classmethod
    def _restored(cls, tensors: dict[str, Tensor], metadata: dict[str, str]) -> "HiddenStates":
        fields = {name: json.loads(text) for name, text in metadata.items() if name != "format"}
        _check(tensors, fields)
        image = None
        if fields["image"] is not None:
            # Through open_image, which computes the hash from the pixels that were kept.
            opened = open_image(_pixels(tensors["image"]), name=fields["image"]["name"])
            image = ImageInput(opened.pixels, opened.name, fields["image"]["source"], opened.sha256)
        return cls(
            vectors=tensors["vectors"],
            layers=tuple(fields["layers"]),
            positions=tensors["positions"],
            token_ids=tensors["token_ids"],
            visual=tensors["visual"],
            grid=fields["grid"] and PatchGrid.from_json(fields["grid"]),
            image=image,
            prompt=fields["prompt"],
            provenance=Provenance.from_json(fields["provenance"]),
        )


def _check(tensors: dict[str, Tensor], fields: dict[str, Any]) -> None:
    """Raise ValueError unless everything has its type and as many tokens and layers as the rest."""
    layers, image = fields["layers"], fields["image"]
    if not all(type(layer) is int and layer >= 0 for layer in layers) or layers != sorted(set(layers)):
        raise ValueError(f"layers {layers}")
    tokens = tensors["positions"].shape
    for name in ("positions", "token_ids", "visual"):
        tensor = tensors[name]
        if tensor.ndim != 1 or tensor.shape != tokens:
            raise ValueError(f"{name} of shape {tuple(tensor.shape)} for positions of shape {tuple(tokens)}")
        if tensor.is_floating_point() or (tensor.dtype == torch.bool) != (name == "visual"):
            raise ValueError(f"{name} of type {tensor.dtype}")
    vectors = tensors["vectors"]
    if vectors.ndim != 3 or vectors.shape[:2] != (len(layers), *tokens) or not vectors.is_floating_point():
        raise ValueError(f"vectors of shape {tuple(vectors.shape)} in {vectors.dtype} for {tokens.numel()} tokens")
    texts = [fields["prompt"], *((image["name"], image["source"] or "") if image else ())]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"prompt and image {texts}")


def _png(image: ImageInput) -> Tensor:
    buffer = io.BytesIO()
    image.pixels.save(buffer, "PNG")
    return torch.from_numpy(np.frombuffer(buffer.getvalue(), np.uint8).copy())


def _pixels(png: Tensor) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(png.numpy().tobytes()))
