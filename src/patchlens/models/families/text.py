"""The tokenizing that families share. Knows no image."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from patchlens.errors import PromptError

if TYPE_CHECKING:
    import patchlens.models.model

__all__ = ["adds_special_tokens", "check_length", "encoded"]


def encoded(model: "patchlens.models.model.Model", text: str) -> dict[str, Tensor]:
    """Tokenize one text to input ids and attention mask, each (1, position).

    Raises:
        PromptError: It gives no token, or more than the model has positions for.
    """
    ids = model.tokenizer(text, add_special_tokens=adds_special_tokens(model, text))["input_ids"]
    check_length(model, len(ids))
    input_ids = torch.tensor([ids], dtype=torch.long)
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def adds_special_tokens(model: "patchlens.models.model.Model", text: str) -> bool:
    """Say whether the tokenizer should add its own: not when a chat template has begun the text with them."""
    begin = model.tokenizer.bos_token
    return not (begin and text.startswith(begin))


def check_length(model: "patchlens.models.model.Model", length: int) -> None:
    """Refuse a sequence of `length` tokens that the model cannot take.

    Raises:
        PromptError: It is empty, or longer than the model has positions for.
    """
    if length == 0:
        raise PromptError(
            f"The prompt for {model.name} is empty: its tokenizer made no token of it. Give at least one word."
        )
    limit = getattr(model.decoder.config, "max_position_embeddings", None)
    if limit is not None and length > limit:
        raise PromptError(
            f"The prompt for {model.name} has {length} tokens with the image's, but the model has {limit} "
            "positions. Shorten the prompt."
        )
