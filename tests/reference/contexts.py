"""What a bank holds, the slow and obvious way: a dictionary of prefixes, and one forward pass a sentence."""

import torch
from torch import Tensor


def contexts(tokenizer: object, sentences: list[str]) -> dict[tuple[int, ...], tuple[int, int]]:
    """Every prefix that may be kept, with its first (sentence, position)."""
    found: dict[tuple[int, ...], tuple[int, int]] = {}
    for number, sentence in enumerate(sentences):
        ids = tokenizer(sentence)["input_ids"]
        for position in range(1, len(ids)):
            if ids[position] not in tokenizer.all_special_ids:
                found.setdefault(tuple(ids[: position + 1]), (number, position))
    return found


def states(model: object, sentence: str, layer: int) -> Tensor:
    """Hidden states of one sentence alone; `layer` below the last, whose entry is after the final norm."""
    with torch.no_grad():
        out = model.decoder(torch.tensor([model.tokenizer(sentence)["input_ids"]]), output_hidden_states=True)
    return out.hidden_states[layer][0]
