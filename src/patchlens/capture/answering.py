"""What a model says: the text that it generates, with nothing captured."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from patchlens.capture.capture import request_of
from patchlens.errors import ModelIncomplete, OptionError, OutOfMemory, PatchlensError
from patchlens.inputs.image import ImageLike
from patchlens.models.adapter import Prepared
from patchlens.models.model import Model
from patchlens.models.prepare import check_length, prepare, room_after
from patchlens.models.source import first_line

__all__ = ["answer_text"]


def answer_text(
    model: Model,
    images: ImageLike | Sequence[ImageLike] | None,
    prompt: str | Sequence[Mapping[str, Any]] | None = None,
    *,
    max_tokens: int,
) -> str:
    """What a model answers, greedily: the text of the tokens that `capture(..., answer=max_tokens)` captures.

    Args:
        model: From `load_model`.
        images: One, several, or None for none, as for `capture`.
        prompt: As for `capture`.
        max_tokens: At most so many, and no more than the model has positions for.

    Returns:
        The answer without special tokens and without white space around it; empty where the model ends at once.

    Raises:
        OptionError: Fewer than one token, or images for a model that takes none.
        ImageError: An image cannot be used.
        PromptError: The prompt does not fit the model, or leaves no position for an answer.
        ModelIncomplete: The model's code cannot take this input.
        OutOfMemory: The device is too small.

    Example:
        >>> answer_text(load_model("picturebook"), "scene.png", "Where is this?", max_tokens=20)  # doctest: +SKIP
        'This is in a harbor.'
    """
    if max_tokens < 1:
        raise OptionError(f"An answer of {max_tokens} tokens was asked for. Give a number from 1 on.")
    prepared = prepare(model, [request_of(images, prompt)])
    length = len(prepared.sequences[0].token_ids)
    check_length(model, length + 1)
    tokens = min(max_tokens, room_after(model, length))
    try:
        ids = _generated(model, prepared, tokens)
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(
            f"The device has too little memory to let {model.name} answer {length} tokens with {tokens}. Smaller "
            "images, a shorter prompt or fewer tokens need less, and so do dtype='bfloat16' and device_map='auto'."
        ) from error
    except PatchlensError:
        raise
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise ModelIncomplete(
            f"Letting {model.name} answer failed: {type(error).__name__}: {first_line(error)} Its code cannot take "
            "this input, or its weights and config do not fit together."
        ) from error
    return str(model.tokenizer.decode(ids, skip_special_tokens=True)).strip()


def _generated(model: Model, prepared: Prepared, tokens: int) -> list[int]:
    """Token ids of the answer to one prompt."""
    inputs = model.accepted(prepared.inputs)
    with torch.inference_mode():
        out: list[int] = model.adapter.generate(model.network, inputs, tokens)[0].tolist()
    asked: list[int] = prepared.inputs["input_ids"][0].tolist()
    return out[len(asked) :] if out[: len(asked)] == asked else out  # some families return the answer alone
