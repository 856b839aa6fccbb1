"""Families without a file of their own: their states can be read, where their tokens lie is not known."""

from typing import Any, ClassVar

from patchlens.models.adapter import Adapter, Card

__all__ = ["GenericAdapter"]


class GenericAdapter(Adapter):
    """Any multimodal language model of transformers; its visual tokens are a list without geometry.

    Args:
        model_type: What config.json says.
        modalities: What it seems to take, by the parts that its config has.
    """

    family: ClassVar[str] = "generic"
    model_types: ClassVar[tuple[str, ...]] = ()
    modalities: tuple[str, ...] = ("image", "text")  # type: ignore[misc]  # by model, not by class
    card: ClassVar[Card] = Card("unknown: its visual tokens are shown as a list")

    def __init__(self, model_type: str, modalities: tuple[str, ...]) -> None:
        self.model_type = model_type
        self.modalities = modalities

    def placeholder(self, processor: Any, kind: str) -> str:
        """By the names that processors have for it; see `Adapter.placeholder`."""
        from patchlens.errors import UnknownFamily

        for owner in (processor, processor.tokenizer):
            if isinstance(found := getattr(owner, f"{kind}_token", None), str):
                return found
        raise UnknownFamily(
            f"The processor of this {self.model_type} model does not say which text stands for an {kind}. patchlens "
            "has "
            f"no family for this model type; write an adapter that names it (docs/adapters.md)."
        )
