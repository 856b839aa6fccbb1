"""Text-only language models: every class behind AutoModelForCausalLM that is not also multimodal."""

from typing import TYPE_CHECKING, ClassVar

import torch
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

from patchlens.errors import OptionError
from patchlens.inputs.image import ImageInput
from patchlens.models.adapter import Adapter, Prepared
from patchlens.models.families.text import encoded

if TYPE_CHECKING:
    import patchlens.models.model

__all__ = ["CausalAdapter"]


class CausalAdapter(Adapter):
    """A causal language model without images; prompts are taken as they are."""

    family: ClassVar[str] = "causal"
    model_types: ClassVar[tuple[str, ...]] = tuple(
        sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES))
    )
    modalities: ClassVar[tuple[str, ...]] = ("text",)

    def prepare(self, model: "patchlens.models.model.Model", image: ImageInput | None, prompt: str) -> Prepared:
        """Tokenize the prompt; see `Adapter.prepare`."""
        if image is not None:
            raise OptionError(
                f"Cannot show the image '{image.name}' to {model.name}: it is a text-only language model. "
                "Leave the image out, or load a vision-language model."
            )
        inputs = encoded(model, prompt)
        return Prepared(inputs, inputs["input_ids"][0], torch.empty(0, dtype=torch.long), None)
