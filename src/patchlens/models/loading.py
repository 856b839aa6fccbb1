"""From a name to a model that has proved itself; every failure of the libraries below becomes one of ours."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoTokenizer,
    PreTrainedModel,
)

from patchlens.errors import MissingExtra, ModelIncomplete, OptionError
from patchlens.models.adapter import Adapter
from patchlens.models.model import Model, text_decoder, weights_fingerprint
from patchlens.models.proof import prove
from patchlens.models.quiet import quiet
from patchlens.models.registry import adapter_for
from patchlens.models.source import Source, find_source, first_line, loading_of, read_config
from patchlens.models.without_torchvision import torchvision_optional

__all__ = ["Model", "load_model", "model_of", "processor_of"]

_DTYPES = ("auto", "float32", "bfloat16", "float16")


def load_model(
    model: str | Path | Model | PreTrainedModel,
    *,
    processor: Any = None,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device_map: str | dict[str, Any] | None = None,
    offload_folder: str | Path | None = None,
    lora: str | Path | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """Load a vision-language model or a language model, and check that it can be looked into.

    Args:
        model: The name of an embedded model, a local Hugging Face folder, or a Hub id. A network of transformers that
            is loaded already is looked into as and where it is; a model of ours is given back.
        processor: Of a network that is loaded already: its processor, or its tokenizer to read text alone.
        revision: Branch, tag or commit on the Hub.
        dtype: "auto" keeps what the weights are stored in; or "float32", "bfloat16", "float16".
        device_map: None for the CPU; a device such as "cuda:0"; or what `accelerate` takes ("auto"). What does not fit
            on the devices stays in main memory or on disk and is fetched when it is needed.
        offload_folder: Where weights go that even main memory cannot hold.
        lora: Folder or Hub id of a LoRA adapter to put on the model; a folder that holds an adapter alone can also be
            given as `model`, and its base model is loaded.
        trust_remote_code: Run Python code that comes with the model. Off unless asked for.

    Returns:
        The model in evaluation mode. Three tokens have been run through it: its states have the expected
        shape and are finite, its logits are its final norm and head; for a VLM the visual tokens fill the
        patch grid.

    Raises:
        ModelNotFound: There is no such embedded model, folder or Hub id.
        ModelIncomplete: Files are missing or damaged, or the check failed.
        UnknownFamily: No adapter serves this model type.
        OptionError: The data type, the device or the revision is none, or something was asked of a model that is loaded
            already.
        MissingExtra: The device map or the LoRA adapter needs a library that is not installed.
    """
    if isinstance(model, Model | nn.Module):
        asked: dict[str, Any] = {
            "revision": revision,
            "device_map": device_map,
            "offload_folder": offload_folder,
            "lora": lora,
        }
        asked["trust_remote_code"] = trust_remote_code or None
        if isinstance(model, Model):  # whose type bank builds compare, with a message of their own
            asked["processor"] = processor
        elif _dtype(dtype) not in ("auto", getattr(model, "dtype", None)):
            asked["dtype"] = dtype
        if given := [name for name, value in asked.items() if value is not None]:
            raise OptionError(
                f"A model that is loaded already stays as it is, so {', '.join(given)} cannot be chosen for it. Leave "
                "that out, or load the model by its name."
            )
        return model if isinstance(model, Model) else model_of(model, processor)
    torch_dtype = _dtype(dtype)
    source = find_source(model, revision)
    if lora is None and source.local and _is_adapter(source):
        lora, source = source.place, find_source(_base_of(source), revision)
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = read_config(source, revision)
    adapter = adapter_for(config)
    multimodal = adapter.modalities != ("text",)
    loader = AutoModelForMultimodalLM if multimodal else AutoModelForCausalLM
    elsewhere = {} if offload_folder is None else {"offload_folder": os.fspath(offload_folder)}
    network = _network(source, loader, torch_dtype, device_map, options | _attention(config) | elsewhere)
    if lora is not None:
        _put_on(source, network, lora)
    adapter.settle(network)
    decoder = text_decoder(network)
    processor = processor_of(source, adapter, options) if multimodal else None
    tokenizer = processor.tokenizer if processor is not None else _tokenizer(source, options)
    loaded = Model(
        name=source.name if lora is None else f"{source.name} + {lora}",
        revision=getattr(network.config, "_commit_hash", None),
        network=network,
        tokenizer=tokenizer,
        processor=processor,
        adapter=adapter,
        fingerprint=weights_fingerprint(decoder),
        loading={
            "model": os.path.abspath(source.place) if source.local else source.place,
            "dtype": str(torch_dtype).removeprefix("torch."),
            "lora": None if lora is None else os.path.abspath(lora) if os.path.isdir(lora) else str(lora),
            **options,
        },
    )
    with quiet():
        prove(loaded)
    return loaded


def model_of(network: Any, processor: Any) -> Model:
    """Look into a model that a program made or loaded itself.

    Args:
        network: A model of transformers, in evaluation mode; it stays where it is, and as it is but for what
            `Adapter.settle` sets.
        processor: Its processor; or its tokenizer, and then it reads text alone.

    Returns:
        The model, after the checks of `load_model`.

    Raises:
        OptionError: The network is being trained, or no processor was given.
        UnknownFamily: No adapter serves this model type.
        ModelIncomplete: A check failed.
    """
    name = getattr(network, "name_or_path", "") or type(network).__name__
    if not isinstance(network, PreTrainedModel):
        raise OptionError(
            f"Cannot look into a {type(network).__name__}: it is no model of transformers. Hidden states that it "
            "computed are read by open_states."
        )
    if processor is None:
        raise OptionError(
            f"Looking into {name}, which is loaded already, needs its processor, or its tokenizer to read text alone. "
            "Pass processor=…."
        )
    if network.training:
        raise OptionError(
            f"{name} is in training mode, where dropout makes hidden states random. Call its eval() first."
        )
    found = adapter_for(network.config.to_dict())
    found.settle(network)
    decoder = text_decoder(network)
    tokenizer = getattr(processor, "tokenizer", None)
    made = Model(
        name=name,
        revision=getattr(network.config, "_commit_hash", None),
        network=network,
        tokenizer=processor if tokenizer is None else tokenizer,
        processor=None if tokenizer is None else processor,
        adapter=found,
        fingerprint=weights_fingerprint(decoder),
    )
    with quiet():
        prove(made)
    return made


def _network(
    source: Source,
    loader: Any,
    dtype: str | torch.dtype,
    device_map: str | dict[str, Any] | None,
    options: dict[str, Any],
) -> Any:
    device = _single_device(device_map)
    spread = {} if device is not None or device_map is None else {"device_map": device_map}
    try:
        with loading_of("weights", source):
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


def _is_adapter(source: Source) -> bool:
    here = Path(source.place)
    return (here / "adapter_config.json").is_file() and not (here / "config.json").is_file()


def _base_of(source: Source) -> str:
    try:
        base = json.loads((Path(source.place) / "adapter_config.json").read_text(encoding="utf-8"))
        return str(base["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelIncomplete(
            f"Loading {source.name}: it holds a LoRA adapter whose adapter_config.json does not name its base model "
            f"({first_line(error)}). Load the base model and pass lora='{source.name}'."
        ) from error


def _put_on(source: Source, network: Any, lora: str | Path) -> None:
    """Put an adapter's weights into the model's own modules; states are those with the adapter on."""
    if importlib.util.find_spec("peft") is None:
        raise MissingExtra(f"The LoRA adapter {lora} of {source.name} needs peft: pip install 'patchlens[lora]'.")
    with loading_of(f"LoRA adapter {lora}", source):
        info = network.load_adapter(os.fspath(lora))
    strangers = [*getattr(info, "unexpected_keys", ()), *getattr(info, "missing_keys", ())]
    strangers += [str(key) for key in getattr(info, "mismatched_keys", ())]
    if strangers:
        raise ModelIncomplete(
            f"The LoRA adapter {lora} does not fit {source.name}: {len(strangers)} of its tensors are missing, left "
            f"over or of another shape, {min(map(str, strangers))} among them. transformers would fill them with "
            "random numbers; give the adapter's own base model."
        )
    network.requires_grad_(False).eval()


def _attention(config: dict[str, Any]) -> dict[str, Any]:
    """Under sdpa, transformers leaves out the soft cap of Gemma 2's attention scores without a word."""
    capped = any(part.get("attn_logit_softcapping") for part in (config, config.get("text_config") or {}))
    return {"attn_implementation": "eager"} if capped else {}


def _check_complete(source: Source, info: dict[str, Any]) -> None:
    missing = sorted(str(key) for key in [*info["missing_keys"], *info["mismatched_keys"]])
    if missing:
        raise ModelIncomplete(
            f"Loading the weights of {source.name}: {len(missing)} of its tensors are missing or have "
            f"another shape, {missing[0]} among them. transformers would fill them with random numbers; get "
            "the complete weights."
        )


def _moved(source: Source, network: nn.Module, device: torch.device) -> nn.Module:
    try:
        return network.to(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise OptionError(
            f"Cannot move {source.name} to the device '{device}': {first_line(error)} Choose a device that "
            "this machine has; 'cpu' always works."
        ) from error


def processor_of(source: Source, adapter: Adapter, options: dict[str, Any]) -> Any:
    """Load a model's processor, its video part left out where torchvision is missing.

    Raises:
        ModelIncomplete: It is missing, damaged, or lacks what the family takes.
    """
    with loading_of("processor", source), torchvision_optional():
        processor = adapter.load_processor(source.place, **options)
    wanted = {
        "image": ("image_processor",),
        "video": ("video_processor",),
        "audio": ("feature_extractor", "audio_processor"),
        "text": ("tokenizer",),
    }
    missing = [
        wanted[kind][0]
        for kind in adapter.modalities
        if all(getattr(processor, name, None) is None for name in wanted[kind])
    ]
    if missing:
        raise ModelIncomplete(
            f"Loading the processor of {source.name}: found a {type(processor).__name__} without "
            f"{' and '.join(missing)}. Save the processor beside the weights: "
            "processor.save_pretrained(folder)."
        )
    return processor


def _tokenizer(source: Source, options: dict[str, Any]) -> Any:
    with loading_of("tokenizer", source):
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
