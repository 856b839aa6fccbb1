"""Hidden states that something else computed: a safetensors file, and a small JSON beside it that says what they are.

For models that transformers does not have, for serving engines, for other frameworks. docs/formats.md holds the format.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from patchlens.axes import Float
from patchlens.capture.hidden_states import FORMAT, HiddenStates
from patchlens.errors import OptionError, StatesError
from patchlens.inputs.image import ImageInput, open_image
from patchlens.models.patch_grid import PatchGrid
from patchlens.models.tile import KINDS, Tile
from patchlens.models.tiling import whole
from patchlens.models.token_map import TokenMap
from patchlens.provenance import Provenance

__all__ = ["open_states"]

_VERSION = 1
_FIELDS = (
    *("version", "model", "layers", "revision", "fingerprint", "tokenizer", "versions", "prompt", "images", "grid"),
    *("tiles", "kinds", "source", "tile", "cell", "seconds", "positions", "token_ids"),
)


def open_states(path: str | Path) -> HiddenStates:
    """Open hidden states: what `HiddenStates.save` wrote, or vectors from elsewhere with a JSON beside them.

    Args:
        path: The safetensors file. From elsewhere, `states.safetensors` holds `vectors` [layer, token, d_model], or one
            tensor `layer_08` [token, d_model] per layer, and `states.json` beside it says at least "version": 1,
            "model", and "layers" where the tensors' names do not. docs/formats.md has the rest.

    Raises:
        StatesError: A file is missing, damaged, or says what does not fit; the message names it.

    Example:
        >>> states = open_states("from-vllm/states.safetensors")  # doctest: +SKIP
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") == FORMAT:
                return HiddenStates.open(path)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError as error:
        raise StatesError(f"Opening hidden states: there is no file {path}. Check the path.") from error
    except (SafetensorError, OSError) as error:
        raise StatesError(
            f"Opening hidden states: {path} is damaged, cut short or no safetensors file ({error}). Write it again."
        ) from error
    about = _about(path)
    try:
        return _made(path, tensors, about)
    except StatesError:
        raise
    except Exception as error:  # what a person wrote by hand can be wrong in any way
        raise StatesError(
            f"Opening hidden states: {path} and {path.with_suffix('.json').name} do not fit ({error}). See "
            "docs/formats.md, 'Hidden states from elsewhere'."
        ) from error


def _about(path: Path) -> dict[str, Any]:
    beside = path.with_suffix(".json")
    try:
        about = json.loads(beside.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StatesError(
            f"Opening hidden states: {path} was not written by patchlens, and there is no {beside.name} beside it to "
            "say "
            'what it holds. Write one: {"version": 1, "model": "owner/name", "layers": [0, 8, 16]}.'
        ) from error
    except (OSError, ValueError) as error:
        raise StatesError(f"Opening hidden states: {beside} cannot be read as JSON ({error}). Correct it.") from error
    if not isinstance(about, dict) or about.get("version") != _VERSION or not isinstance(about.get("model"), str):
        raise StatesError(
            f'Opening hidden states: {beside} needs at least "version": {_VERSION} and "model": the name of the '
            "language "
            "model that they come from."
        )
    if unknown := sorted(set(about) - set(_FIELDS)):
        raise StatesError(f"Opening hidden states: {beside} has the field {unknown[0]!r}. Known: {', '.join(_FIELDS)}.")
    return about


def _made(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> HiddenStates:
    vectors, layers = _vectors(path, tensors, about.get("layers"))
    count = vectors.shape[1]
    images = tuple(_image(path.parent, entry) for entry in about.get("images", ()))
    tokens = _tokens(about, images, count)
    return HiddenStates(
        vectors=vectors,
        layers=layers,
        positions=_positions(about.get("positions"), tensors.get("positions"), count),
        token_ids=_whole_numbers(about.get("token_ids"), tensors.get("token_ids"), count, torch.full((count,), -1)),
        tokens=tokens,
        sources=images,
        prompt=str(about.get("prompt", "")),
        provenance=Provenance(
            kind="hidden states",
            model=str(about["model"]),
            revision=about.get("revision"),
            fingerprint=str(about.get("fingerprint", "")),
            tokenizer=str(about.get("tokenizer", "")),
            versions={str(name): str(value) for name, value in about.get("versions", {}).items()},
            settings={"from": path.name, "layers": list(layers)},
        ),
    )


def _vectors(
    path: Path, tensors: Mapping[str, Tensor], asked: Any
) -> tuple[Float[Tensor, "layer token d_model"], tuple[int, ...]]:
    named = _by_layer(path, tensors)
    if asked is not None and not (isinstance(asked, list) and all(type(layer) is int for layer in asked)):
        raise StatesError(
            f'Opening hidden states: the "layers" beside {path} are {json.dumps(asked)}. Expected a list of whole '
            "numbers, such as [0, 8, 16]."
        )
    if "vectors" in tensors and asked is not None:
        vectors, layers = _computable(tensors["vectors"]), tuple(asked)
    elif named:
        layers = tuple(sorted(named) if asked is None else asked)
        if missing := [layer for layer in layers if layer not in named]:
            raise StatesError(f"Opening hidden states: {path} has no tensor for layer {missing[0]}, which is listed.")
        vectors = torch.stack([_computable(tensors[named[layer]]) for layer in layers])
    else:
        raise StatesError(
            f"Opening hidden states: {path} holds {', '.join(sorted(tensors)) or 'nothing'}. Expected 'vectors' "
            "[layer, token, d_model] with \"layers\" in the JSON, or a tensor 'layer_08' [token, d_model] per layer."
        )
    if list(layers) != sorted(set(layers)) or any(layer < 0 for layer in layers):
        raise StatesError(f"Opening hidden states: the layers {list(layers)} of {path} do not rise from 0 on.")
    if vectors.ndim != 3 or len(vectors) != len(layers) or not vectors.is_floating_point() or not vectors.numel():
        raise StatesError(
            f"Opening hidden states: the vectors of {path} have the shape {tuple(vectors.shape)} in {vectors.dtype}. "
            f"Expected floats of [{len(layers)} layers, token, d_model]."
        )
    return vectors, layers


def _by_layer(path: Path, tensors: Mapping[str, Tensor]) -> dict[int, str]:
    """The name of the tensor that holds a layer alone."""
    named: dict[int, str] = {}
    for name in sorted(tensors):
        number = name.removeprefix("layer_")
        if number != name and number.isdecimal():
            other = named.setdefault(int(number), name)
            if other != name:
                raise StatesError(
                    f"Opening hidden states: {path} has two tensors for layer {int(number)}, {other!r} and {name!r}. "
                    "Keep one of them."
                )
    return named


def _computable(vectors: Tensor) -> Tensor:
    """Floats of 8 bits as float32: they are for storing, and few operations take them."""
    return vectors.float() if vectors.is_floating_point() and vectors.element_size() == 1 else vectors


def _image(folder: Path, entry: Any) -> ImageInput:
    if isinstance(entry, str):
        return open_image(folder / entry)
    return open_image(folder / str(entry["file"]), name=entry.get("name"))


def _tokens(about: Mapping[str, Any], images: Sequence[ImageInput], count: int) -> TokenMap:
    if "grid" in about:
        if len(images) != 1:
            raise OptionError(f"a grid needs one image, and {len(images)} are named")
        shape, size = about["grid"], images[0].size
        grid = PatchGrid.from_json({"image_size": size, "region": whole(size), **shape})
        if len(grid) != count:
            raise OptionError(f"a grid of {grid.rows} × {grid.columns} for {count} tokens")
        zero = [0] * count
        return _map("patch", zero, zero, list(range(count)), None, ((Tile(grid),),))
    if "kinds" not in about:
        return TokenMap.without_places(count, len(images)) if images else TokenMap.of_text(count)
    for name in ("kinds", "source", "tile", "cell", "seconds"):
        listed = about.get(name, [-1] * count)
        if not isinstance(listed, list) or len(listed) != count:
            found = f"{len(listed)} values" if isinstance(listed, list) else json.dumps(listed)
            raise OptionError(f'"{name}" is {found}, and a list of {count} is needed, one value per token')
        if name in ("source", "tile", "cell") and (odd := [one for one in listed if type(one) is not int]):
            raise OptionError(f'"{name}" holds {json.dumps(odd[0])}, and its values are whole numbers')
    if unknown := [kind for kind in about["kinds"] if kind not in KINDS]:
        raise OptionError(f"a token of kind {json.dumps(unknown[0])}, and there are {', '.join(KINDS)}")
    if "tiles" not in about and "patch" in about["kinds"]:
        raise OptionError('"kinds" names patches, and there are no "tiles" that they could lie in')
    tiles = about.get("tiles", [[]] * len(images))
    if not isinstance(tiles, list) or len(tiles) != len(images):
        given = len(tiles) if isinstance(tiles, list) else json.dumps(tiles)
        raise OptionError(f'"tiles" needs one list for each of {len(images)} images, and holds {given}')
    layout = [[Tile.from_json(_sized(tile, image)) for tile in cut] for cut, image in zip(tiles, images, strict=True)]
    nowhere = [-1] * count
    source, tile, cell = (about.get(name, nowhere) for name in ("source", "tile", "cell"))
    return _map(about["kinds"], source, tile, cell, about.get("seconds"), layout)


def _sized(tile: Mapping[str, Any], image: ImageInput) -> dict[str, Any]:
    """A tile's grid may leave out the size of its image, and its region where that is all of it."""
    grid = {"image_size": list(image.size), "region": list(whole(image.size)), **tile["grid"]}
    return {**tile, "grid": grid}


def _map(
    kinds: str | Sequence[str],
    sources: Sequence[int],
    tiles: Sequence[int],
    cells: Sequence[int],
    seconds: Sequence[Sequence[float]] | None,
    layout: Sequence[Sequence[Tile]],
) -> TokenMap:
    count = len(sources)
    named = [kinds] * count if isinstance(kinds, str) else kinds
    return TokenMap.from_tensors(
        {
            "kinds": torch.tensor([KINDS.index(kind) for kind in named]),
            "sources": torch.tensor(sources),
            "tiles": torch.tensor(tiles),
            "cells": torch.tensor(cells),
            "seconds": torch.full((count, 2), torch.nan) if seconds is None else torch.tensor(seconds),
        },
        layout,
    )


def _positions(listed: Any, stored: Tensor | None, count: int) -> Tensor:
    found = _whole_numbers(listed, stored, count, torch.arange(count))
    if int(found.min()) < 0:
        raise OptionError(f"the position {int(found.min())}, and positions count from 0")
    return found


def _whole_numbers(listed: Any, stored: Tensor | None, count: int, otherwise: Tensor) -> Tensor:
    found = stored if stored is not None else otherwise if listed is None else torch.tensor(listed)
    if tuple(found.shape) != (count,) or found.is_floating_point() or found.dtype == torch.bool:
        raise OptionError(
            f"positions or token ids of shape {tuple(found.shape)} for {count} tokens, in {found.dtype}; they are "
            "whole numbers, one per token"
        )
    return found.long()
