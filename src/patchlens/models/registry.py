"""Which adapter serves which model type: ours, and those that installed packages add by entry point."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from patchlens.errors import ModelError, UnknownFamily
from patchlens.models.adapter import Adapter
from patchlens.models.families.aya_vision import AyaVisionAdapter
from patchlens.models.families.blip_2 import Blip2Adapter
from patchlens.models.families.causal import CausalAdapter
from patchlens.models.families.chameleon import ChameleonAdapter
from patchlens.models.families.cohere2_vision import Cohere2VisionAdapter
from patchlens.models.families.deepseek_vl import DeepseekVLAdapter
from patchlens.models.families.emu3 import Emu3Adapter
from patchlens.models.families.gemma3 import Gemma3Adapter
from patchlens.models.families.gemma4 import Gemma4Adapter
from patchlens.models.families.generic import GenericAdapter
from patchlens.models.families.glm4v import Glm4vAdapter
from patchlens.models.families.granite_speech import GraniteSpeechAdapter
from patchlens.models.families.idefics3 import Idefics3Adapter
from patchlens.models.families.instructblip import InstructBlipAdapter
from patchlens.models.families.internvl import InternVLAdapter
from patchlens.models.families.janus import JanusAdapter
from patchlens.models.families.llama4 import Llama4Adapter
from patchlens.models.families.llava import LlavaAdapter
from patchlens.models.families.llava_next import LlavaNextAdapter
from patchlens.models.families.llava_onevision import LlavaOnevisionAdapter
from patchlens.models.families.mistral3 import Mistral3Adapter
from patchlens.models.families.mllama import MllamaAdapter
from patchlens.models.families.paligemma import PaliGemmaAdapter
from patchlens.models.families.qwen2_5_vl import Qwen25VLAdapter
from patchlens.models.families.qwen2_audio import Qwen2AudioAdapter
from patchlens.models.families.qwen2_vl import Qwen2VLAdapter
from patchlens.models.families.qwen3_5 import Qwen35Adapter
from patchlens.models.families.qwen3_vl import Qwen3VLAdapter
from patchlens.models.families.smolvlm import SmolVLMAdapter
from patchlens.models.families.voxtral import VoxtralAdapter

__all__ = ["GROUP", "adapter_for", "families", "register"]

GROUP = "patchlens.families"
"""The entry point group; each entry names an `Adapter` class or instance."""

_BY_TYPE: dict[str, Adapter] = {}


def register(adapter: Adapter) -> None:
    """Add a family.

    Args:
        adapter: Serves the model types that it names.

    Raises:
        ModelError: One of them is served already.
    """
    taken = sorted(set(adapter.model_types) & set(_BY_TYPE))
    if taken:
        raise ModelError(
            f"Cannot register the family '{adapter.family}': model type '{taken[0]}' is served by "
            f"'{_BY_TYPE[taken[0]].family}' already. Give the new adapter only types that have none."
        )
    _BY_TYPE.update(dict.fromkeys(adapter.model_types, adapter))


def adapter_for(config: Mapping[str, Any]) -> Adapter:
    """Find the adapter of a model.

    Args:
        config: The fields of its config.json.

    Returns:
        The adapter that serves its `model_type`; the text-only one for remote code that declares a causal
        language model; one without geometry for other multimodal models of transformers.

    Raises:
        UnknownFamily: None does, and the message names those that exist; or its language model is an encoder and a
            decoder.
    """
    _register_installed()
    model_type = config.get("model_type")
    model_type = model_type if isinstance(model_type, str) else None
    _refuse_encoder_decoder(config)
    if model_type in _BY_TYPE:
        return _BY_TYPE[model_type]
    if "AutoModelForCausalLM" in (config.get("auto_map") or {}) and "vision_config" not in config:
        return next(family for family in families() if isinstance(family, CausalAdapter))
    if model_type in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES:
        return GenericAdapter(str(model_type), _modalities(config))
    raise UnknownFamily(
        f"No adapter for model type {model_type!r}. Known: "
        + "; ".join(f"{adapter.family} ({_types(adapter)})" for adapter in families())
        + ". To add one, write an Adapter and offer it in the entry point group "
        + f"'{GROUP}'."
    )


def families() -> list[Adapter]:
    """List the adapters, ours first, in order of registration."""
    _register_installed()
    return list(dict.fromkeys(_BY_TYPE.values()))


def _refuse_encoder_decoder(config: Mapping[str, Any]) -> None:
    text = config.get("text_config")
    inner = text.get("model_type") if isinstance(text, Mapping) else None
    if inner in set(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES) - set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        raise UnknownFamily(
            f"The language model of this {config.get('model_type')} model is an encoder and a decoder ('{inner}'): "
            "images go into its encoder, which sees all tokens at once and predicts none. patchlens reads causal "
            "language models; choose a checkpoint with one, for instance with OPT in place of T5."
        )


def _modalities(config: Mapping[str, Any]) -> tuple[str, ...]:
    heard = any("audio" in name or "encoder" in name for name in config if name.endswith("_config"))
    seen = any(name.startswith(("vision", "visual", "image")) for name in config if name.endswith("_config"))
    return (*(("image",) if seen or not heard else ()), *(("audio",) if heard and not seen else ()), "text")


def _types(adapter: Adapter) -> str:
    shown = ", ".join(adapter.model_types[:3])
    return shown if len(adapter.model_types) <= 3 else f"{shown} and {len(adapter.model_types) - 3} more"


@cache
def _register_installed() -> None:
    for entry in entry_points(group=GROUP):
        try:
            offered = entry.load()
        except Exception as error:
            raise ModelError(
                f"The model family '{entry.name}' is offered by {entry.value!r}, which cannot be loaded "
                f"({error}). Install that package again, or remove it."
            ) from error
        register(offered() if isinstance(offered, type) else offered)


register(LlavaAdapter())
register(LlavaNextAdapter())
register(LlavaOnevisionAdapter())
register(InternVLAdapter())
register(MllamaAdapter())
register(Idefics3Adapter())
register(Mistral3Adapter())
register(Blip2Adapter())
register(InstructBlipAdapter())
register(Qwen2VLAdapter())
register(Qwen25VLAdapter())
register(Qwen3VLAdapter())
register(Qwen35Adapter())
register(Glm4vAdapter())
register(SmolVLMAdapter())
register(PaliGemmaAdapter())
register(AyaVisionAdapter())
register(ChameleonAdapter())
register(DeepseekVLAdapter())
register(JanusAdapter())
register(Gemma3Adapter())
register(Gemma4Adapter())
register(Qwen2AudioAdapter())
register(GraniteSpeechAdapter())
register(VoxtralAdapter())
register(Llama4Adapter())
register(Emu3Adapter())
register(Cohere2VisionAdapter())
register(CausalAdapter())
