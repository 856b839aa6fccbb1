"""Looking around in a bank with a text of one's own."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from patchlens.axes import Bool
from patchlens.bank.bank import Bank, open_bank
from patchlens.capture.text import last_states
from patchlens.errors import NonFiniteStates, OptionError, PromptError
from patchlens.models.loading import load_model
from patchlens.models.model import Model
from patchlens.search.exact import ExactIndex
from patchlens.search.matches import Matches

__all__ = ["search_text"]


def search_text(
    bank: Bank | str | Path,
    text: str,
    *,
    model: Model | str | None = None,
    layers: int | Iterable[int] | None = None,
    k: int = 5,
    unique: str | None = None,
    where: Bool[Tensor, " row"] | None = None,
    space: str = "raw",
) -> dict[int, Matches]:
    """The contexts nearest to a text's own last hidden state, at each layer of the bank.

    Args:
        bank: A bank, its folder, or the name of an embedded one.
        text: One sentence or less; its last token is what is looked up, as the model sees it there.
        model: The bank's model, or how to load it; None loads what the bank was built with.
        layers: Layers of the text's state; None for all that the bank holds. All of the bank is searched for each.
        k: Contexts for each layer.
        unique: "word" or "sentence", to see each only once.
        where: Rows that may be found, from `Bank.where`.
        space: See `ExactIndex`.

    Returns:
        For each layer one query's matches.

    Raises:
        PromptError: The text has no token of its own.
        BankMismatch: The model is not the bank's.
        OptionError: A layer or k out of range.

    Example:
        >>> found = search_text("picturebook", "a red car")  # doctest: +SKIP
        >>> found[4].words  # doctest: +SKIP
    """
    opened = open_bank(bank)
    loaded = model if isinstance(model, Model) else load_model(model or opened.provenance.model)
    opened.check(loaded.fingerprint, loaded.d_model, model=loaded.name)
    wanted = opened.layers if layers is None else (layers,) if isinstance(layers, int) else tuple(layers)
    if missing := [layer for layer in wanted if not 0 <= layer <= loaded.n_layers]:
        raise OptionError(
            f"Layer {missing[0]} of {loaded.name} was asked for, which has the layers 0 to {loaded.n_layers}."
        )
    found = last_states(loaded, _tokens(loaded, text), wanted)
    states = torch.stack([found[layer].float() for layer in wanted])
    if not states.isfinite().all():
        raise NonFiniteStates(
            f"{loaded.name} computed NaN or infinity for '{text[:80]}'. Load it with dtype='float32' and try again."
        )
    matches = ExactIndex(opened, space=space).search(states, k, unique=unique, where=where)
    return {
        layer: Matches(
            rows=matches.rows[[number]],
            layers=matches.layers[[number]],
            similarities=matches.similarities[[number]],
            cost=matches.cost,
            source=matches.source,
        )
        for number, layer in enumerate(wanted)
    }


def _tokens(model: Model, text: str) -> list[int]:
    encoded = model.tokenizer([text], padding=False, truncation=False, verbose=False, add_special_tokens=True)
    ids = list(encoded["input_ids"][0])
    special = set(model.tokenizer.all_special_ids)
    while ids and ids[-1] in special:  # some tokenizers end every text with a token of their own
        ids.pop()
    if not ids:
        raise PromptError(f"Searching for the text {text[:80]!r}: it has no token of its own. Give at least one word.")
    return ids
