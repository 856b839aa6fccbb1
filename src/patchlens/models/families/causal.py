"""Text-only language models: every class behind AutoModelForCausalLM that is not also multimodal."""

from typing import ClassVar

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

from patchlens.models.adapter import Adapter

__all__ = ["CausalAdapter"]


class CausalAdapter(Adapter):
    """A causal language model without images; prompts are taken as they are."""

    family: ClassVar[str] = "causal"
    model_types: ClassVar[tuple[str, ...]] = tuple(
        sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES))
    )
    modalities: ClassVar[tuple[str, ...]] = ("text",)
