"""BLIP-2: a Q-Former asks the encoder a fixed number of questions, and its answers are the visual tokens.

They stand before everything, even the begin of the text, and none has a place in the image: each query looks at all of
it. A prompt has one image.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from patchlens.errors import ModelIncomplete, OptionError
from patchlens.models.adapter import Adapter, Card, Request

if TYPE_CHECKING:
    import patchlens.models.model

__all__ = ["Blip2Adapter", "with_queries"]


class Blip2Adapter(Adapter):
    """BLIP-2 with a causal language model (OPT)."""

    family: ClassVar[str] = "blip_2"
    model_types: ClassVar[tuple[str, ...]] = ("blip-2",)
    modalities: ClassVar[tuple[str, ...]] = ("image", "text")
    card: ClassVar[Card] = Card(
        "none: a list of queries, each of which looked at the whole image",
        (
            "One image per prompt.",
            "OPT adds a position to each token, so layer 0 is the projector's output and a position.",
            "Language models that are encoder and decoder (T5) are refused.",
        ),
    )

    def raw_prompt(self, processor: Any, text: str, images: int, audio: int) -> str:
        """The text alone: the processor puts the queries before it; see `Adapter.raw_prompt`."""
        return text

    def process(
        self, model: "patchlens.models.model.Model", texts: list[str], requests: Sequence[Request]
    ) -> dict[str, Any]:
        """One image to a text; see `Adapter.process`."""
        return with_queries(model, texts, requests)

    def generate(self, network: Any, inputs: dict[str, Tensor], tokens: int) -> Tensor:
        """By the language model if there is no image; see `Adapter.generate`."""
        return super().generate(network if "pixel_values" in inputs else network.language_model, inputs, tokens)


def with_queries(
    model: "patchlens.models.model.Model", texts: list[str], requests: Sequence[Request]
) -> dict[str, Any]:
    """Run a processor that puts the placeholders of the one image before each text by itself.

    Raises:
        OptionError: Several images in one prompt, of which the model would take the first in silence.
        ModelIncomplete: The processor does not know how many queries there are.
    """
    from patchlens.models.prepare import adds_special_tokens

    several = next((request for request in requests if len(request.images) > 1), None)
    if several is not None:
        names = ", ".join(f"'{image.name}'" for image in several.images)
        raise OptionError(
            f"Cannot show {len(several.images)} images ({names}) to {model.name} in one prompt: its queries stand for "
            "one. Give one image, and capture the others with prompts of their own."
        )
    processor, wanted = model.processor, model.config.num_query_tokens
    if processor.num_query_tokens != wanted:
        raise ModelIncomplete(
            f"The processor of {model.name} says num_query_tokens={processor.num_query_tokens}, and the model has "
            f"{wanted} queries. Set num_query_tokens to {wanted} in processor_config.json."
        )
    mark = model.adapter.placeholder(processor, "image")
    made = processor(
        images=[request.images[0].pixels for request in requests],
        text=[text.replace(mark, "") for text in texts],  # a person may have written it
        return_tensors="pt",
        padding=True,
        padding_side="right",
        add_special_tokens=adds_special_tokens(model.tokenizer, texts[0]),
    )
    return dict(made)
