"""From a name to a model that has proved itself; every failure of the libraries below becomes one of ours."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
)

from patchlens.errors import MissingExtra, ModelIncomplete, ModelNotFound, OptionError, PatchlensError
from patchlens.models.embedded import embedded, embedded_names
from patchlens.models.families.causal import CausalAdapter
from patchlens.models.model import Model, text_decoder, weights_fingerprint
from patchlens.models.proof import prove
from patchlens.models.quiet import quiet
from patchlens.models.registry import adapter_for

__all__ = ["Model", "load_model", "model_of"]

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_DTYPES = ("auto", "float32", "bfloat16", "float16")


def load_model(
    model: str | Path | Model,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device_map: str | dict[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """Load a vision-language model or a language model, and check that it can be looked into.

    Args:
        model: The name of an embedded model, a local Hugging Face folder, or a Hub id; a loaded model is
            given back as it is.
        revision: Branch, tag or commit on the Hub.
        dtype: "auto" keeps what the weights are stored in; or "float32", "bfloat16", "float16".
        device_map: None for the CPU; a device such as "cuda:0"; or what `accelerate` takes ("auto").
        trust_remote_code: Run Python code that comes with the model. Off unless asked for.

    Returns:
        The model in evaluation mode. Three tokens have been run through it: its states have the expected
        shape and are finite, its logits are its final norm and head; for a VLM the visual tokens fill the
        patch grid.

    Raises:
        ModelNotFound: There is no such embedded model, folder or Hub id.
        ModelIncomplete: Files are missing or damaged, or the check failed.
        UnknownFamily: No adapter serves this model type.
        OptionError: The data type, the device or the revision is none, or the model does not fit on the devices.
        MissingExtra: The device map needs a library that is not installed.
    """
    if isinstance(model, Model):
        return model
    torch_dtype = _dtype(dtype)
    source = _find(model, revision)
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = _config(source, revision)
    adapter = adapter_for(config)
    takes_images = "image" in adapter.modalities
    loader = AutoModelForMultimodalLM if takes_images else AutoModelForCausalLM
    network = _network(source, loader, torch_dtype, device_map, options | _attention(config))
    decoder = text_decoder(network)
    _refuse_offloaded(source, decoder)
    processor = _processor(source, options) if takes_images else None
    tokenizer = processor.tokenizer if processor is not None else _tokenizer(source, options)
    loaded = Model(
        name=source.name,
        revision=getattr(network.config, "_commit_hash", None),
        network=network,
        tokenizer=tokenizer,
        processor=processor,
        adapter=adapter,
        fingerprint=weights_fingerprint(decoder),
        loading={
            "model": os.path.abspath(source.place) if source.local else source.place,
            "dtype": str(torch_dtype).removeprefix("torch."),
            **options,
        },
    )
    with quiet():
        prove(loaded)
    return loaded


def model_of(network: Any, tokenizer: Any) -> Model:
    """Look into a language model that a program made or loaded itself.

    Args:
        network: A causal language model of transformers, in evaluation mode; it stays as it is.
        tokenizer: Its tokenizer.

    Returns:
        The model, after the checks of `load_model`. Without a processor it reads text alone.

    Raises:
        OptionError: The network is being trained.
        UnknownFamily: No adapter serves this model type.
        ModelIncomplete: A check failed.
    """
    name = getattr(network, "name_or_path", "") or type(network).__name__
    if network.training:
        raise OptionError(
            f"{name} is in training mode, where dropout makes hidden states random. Call its eval() first."
        )
    decoder = text_decoder(network)
    _refuse_offloaded(_Source(name, name, local=True), decoder)
    found = adapter_for(network.config.to_dict())
    made = Model(
        name=name,
        revision=getattr(network.config, "_commit_hash", None),
        network=network,
        tokenizer=tokenizer,
        processor=None,
        adapter=CausalAdapter() if "image" in found.modalities else found,
        fingerprint=weights_fingerprint(decoder),
    )
    with quiet():
        prove(made)
    return made


@dataclass(frozen=True)
class _Source:
    name: str  # as the person wrote it
    place: str  # what transformers is given
    local: bool


def _find(model: str | Path, revision: str | None) -> _Source:
    name = str(model)
    found = embedded(name) if isinstance(model, str) else None
    folder = found.folder if found else Path(os.path.expanduser(name))
    # os.path says no where Path raises: names too long, parents that may not be entered, unknown users.
    local = found is not None or os.path.exists(folder)
    if local and revision is not None:
        raise OptionError(
            f"Cannot load revision '{revision}' of {name}: it is on this disk, and only models on the Hub "
            "have revisions. Leave the revision out."
        )
    if local and not os.path.isdir(folder):
        raise ModelNotFound(
            f"Loading {name}: {folder} is not a folder. Give the folder that holds config.json and the weights."
        )
    if not local and (isinstance(model, Path) or not _HUB_ID.fullmatch(name)):
        raise ModelNotFound(
            f"Loading {name}: there is no such folder, and it cannot be a Hub id. Check the path; {_embedded_hint()}"
        )
    return _Source(name, str(folder) if local else name, local)


def _embedded_hint() -> str:
    names = ", ".join(f"'{name}'" for name in embedded_names())
    return f"models that need no download: {names or 'none installed'}."


@contextmanager
def _loading(part: str, source: _Source) -> Iterator[None]:
    """Run quietly; whatever the libraries underneath raise becomes ModelIncomplete with its first line."""
    try:
        with quiet():
            yield
    except PatchlensError:
        raise
    except Exception as error:
        raise ModelIncomplete(
            f"Loading the {part} of {source.name} failed: {_first_line(error)} Files are missing, damaged or "
            f"of another release; {'save or copy the folder' if source.local else 'download the model'} "
            "again."
        ) from error


def _config(source: _Source, revision: str | None) -> dict[str, Any]:
    if source.local and not os.path.isfile(Path(source.place) / "config.json"):
        raise ModelIncomplete(
            f"Loading {source.name}: the folder holds no config.json. Give a folder as transformers saves "
            "it, with config.json, the weights and the tokenizer."
        )
    try:
        with quiet():
            fields, _ = PreTrainedConfig.get_config_dict(source.place, revision=revision)
        return dict(fields)
    except Exception as error:
        if source.local:
            raise ModelIncomplete(
                f"Loading {source.name}: its config.json cannot be read: {_first_line(error)} Copy or "
                "download the file again."
            ) from error
        raise ModelNotFound(
            f"Loading {source.name}: it is no embedded model and no folder here, and the Hub gave nothing: "
            f"{_first_line(error)} Check the name, the network and your access; {_embedded_hint()}"
        ) from error


def _network(
    source: _Source,
    loader: Any,
    dtype: str | torch.dtype,
    device_map: str | dict[str, Any] | None,
    options: dict[str, Any],
) -> Any:
    device = _single_device(device_map)
    spread = {} if device is not None or device_map is None else {"device_map": device_map}
    try:
        with _loading("weights", source):
            network, info = loader.from_pretrained(
                source.place, dtype=dtype, output_loading_info=True, **spread, **options
            )
    except ModelIncomplete as error:
        if spread and isinstance(error.__cause__, ImportError | ValueError) and "accelerate" in str(error.__cause__):
            raise MissingExtra(
                f"Spreading {source.name} by device_map={device_map!r} needs accelerate: pip install "
                "accelerate. A single device such as 'cuda:0' needs nothing."
            ) from error
        raise
    _check_complete(source, info)
    network.requires_grad_(False).eval()
    return network if device is None else _moved(source, network, device)


def _attention(config: dict[str, Any]) -> dict[str, Any]:
    """Under sdpa, transformers leaves out the soft cap of Gemma 2's attention scores without a word."""
    capped = any(part.get("attn_logit_softcapping") for part in (config, config.get("text_config") or {}))
    return {"attn_implementation": "eager"} if capped else {}


def _check_complete(source: _Source, info: dict[str, Any]) -> None:
    missing = sorted(str(key) for key in [*info["missing_keys"], *info["mismatched_keys"]])
    if missing:
        raise ModelIncomplete(
            f"Loading the weights of {source.name}: {len(missing)} of its tensors are missing or have "
            f"another shape, {missing[0]} among them. transformers would fill them with random numbers; get "
            "the complete weights."
        )


def _refuse_offloaded(source: _Source, decoder: nn.Module) -> None:
    """Weights that accelerate keeps elsewhere and fetches block by block are on "meta", where none can be read."""
    if any(parameter.is_meta for parameter in decoder.parameters()):
        raise OptionError(
            f"The language model of {source.name} does not fit on these devices: accelerate left a part of it in main "
            "memory or on disk. Choose a smaller data type, more devices, or 'cpu' alone."
        )


def _moved(source: _Source, network: nn.Module, device: torch.device) -> nn.Module:
    try:
        return network.to(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise OptionError(
            f"Cannot move {source.name} to the device '{device}': {_first_line(error)} Choose a device that "
            "this machine has; 'cpu' always works."
        ) from error


def _processor(source: _Source, options: dict[str, Any]) -> Any:
    with _loading("processor", source):
        processor = AutoProcessor.from_pretrained(source.place, **options)
    missing = [part for part in ("image_processor", "tokenizer") if getattr(processor, part, None) is None]
    if missing:
        raise ModelIncomplete(
            f"Loading the processor of {source.name}: found a {type(processor).__name__} without "
            f"{' and '.join(missing)}. Save the processor beside the weights: "
            "processor.save_pretrained(folder)."
        )
    return processor


def _tokenizer(source: _Source, options: dict[str, Any]) -> Any:
    with _loading("tokenizer", source):
        return AutoTokenizer.from_pretrained(source.place, **options)


def _dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    if isinstance(dtype, torch.dtype):
        if dtype.is_floating_point:
            return dtype
    elif dtype in _DTYPES:
        return dtype if dtype == "auto" else getattr(torch, dtype)
    raise OptionError(f"Cannot load a model as {dtype!r}. Choose among {', '.join(_DTYPES)}.")


def _single_device(device_map: str | dict[str, Any] | None) -> torch.device | None:
    """A plain device needs no accelerate; None where the map is for accelerate, or there is none."""
    if not isinstance(device_map, str):
        return None
    try:
        return torch.device(device_map)
    except RuntimeError:
        return None


def _first_line(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return line if line.endswith(".") else f"{line}."
