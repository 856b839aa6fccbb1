"""Sentences that share prefixes, as packs and one by one: slow and obvious, to hold packing against."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from conformance.causal import LONGEST
from patchlens.models.hooks import observe
from patchlens.models.masking import packed_inputs
from patchlens.models.model import Model

Sentence = tuple[int, ...]


@dataclass(frozen=True)
class Pack:
    """A trie of sentences as one sequence."""

    sentences: tuple[Sentence, ...]
    """In an order in which those that share a prefix are neighbours."""

    prefixes: tuple[Sentence, ...]
    """Each prefix of any sentence once, the shorter first: what stands at each place is the last token of one."""

    @property
    def last(self) -> list[int]:
        """For each place, the last place whose prefix continues the one there."""
        continued = [
            [place for place, longer in enumerate(self.prefixes) if longer[: len(prefix)] == prefix]
            for prefix in self.prefixes
        ]
        return [max(places) for places in continued]

    def places(self, sentence: Sentence) -> list[int]:
        """Where a sentence's tokens stand."""
        return [self.prefixes.index(sentence[: length + 1]) for length in range(len(sentence))]


def pack(*sentences: Sentence) -> Pack:
    prefixes = dict.fromkeys(sentence[: length + 1] for sentence in sentences for length in range(len(sentence)))
    return Pack(sentences, tuple(prefixes))


def tries(vocabulary: int) -> list[Pack]:
    """Two packs of different length: branches of all depths, a lone token, a sentence that begins another."""
    drawn = torch.Generator().manual_seed(0)

    def words(count: int) -> Sentence:
        return tuple(torch.randint(4, vocabulary, (count,), generator=drawn).tolist())

    trunk, other = words(LONGEST), words(LONGEST)
    branching = pack(
        trunk[:1],
        trunk[:7],
        trunk,
        trunk[:9] + words(LONGEST - 9),
        trunk[:3] + words(2),
        trunk[:3] + words(LONGEST - 3),
        other[:4],
        words(LONGEST),
    )
    return [branching, pack(other, other[:2] + words(5))]


def packed(model: Model, packs: Sequence[Pack]) -> dict[int, Tensor]:
    """Hidden states of packs side by side, at all layers: [pack, position, d_model]."""
    longest = max(len(pack.prefixes) for pack in packs)
    token_ids = torch.zeros(len(packs), longest, dtype=torch.long)
    depths = torch.zeros_like(token_ids)
    last = torch.arange(longest).repeat(len(packs), 1)
    for row, trie in enumerate(packs):
        count = len(trie.prefixes)
        token_ids[row, :count] = torch.tensor([prefix[-1] for prefix in trie.prefixes])
        depths[row, :count] = torch.tensor([len(prefix) - 1 for prefix in trie.prefixes])
        last[row, :count] = torch.tensor(trie.last)
    return _states(model, [packed_inputs(model, token_ids, depths, last)])[0]


def in_rows(model: Model, sentences: Sequence[Sentence]) -> dict[int, Tensor]:
    """Hidden states of one sentence a row, padded on the right, as the bank runs what it cannot pack."""
    token_ids = torch.zeros(len(sentences), max(map(len, sentences)), dtype=torch.long)
    mask = torch.zeros_like(token_ids)
    for row, sentence in enumerate(sentences):
        token_ids[row, : len(sentence)] = torch.tensor(sentence)
        mask[row, : len(sentence)] = 1
    inputs = {"input_ids": token_ids, "attention_mask": mask, "use_cache": False}
    if "position_ids" in inspect.signature(model.decoder.forward).parameters:
        inputs["position_ids"] = torch.arange(token_ids.shape[1]).expand(token_ids.shape)
    return _states(model, [inputs])[0]


def alone(model: Model, sentences: Sequence[Sentence]) -> list[dict[int, Tensor]]:
    """Hidden states of each sentence by itself, with nothing said about masks or positions: [position, d_model]."""
    runs = [{"input_ids": torch.tensor([sentence]), "use_cache": False} for sentence in sentences]
    return [{layer: state[0] for layer, state in states.items()} for states in _states(model, runs)]


def one_by_one(model: Model, packs: Sequence[Pack]) -> list[list[dict[int, Tensor]]]:
    """Of each pack the hidden states of its sentences, each alone."""
    return [alone(model, trie.sentences) for trie in packs]


def packed_difference(model: Model, packs: Sequence[Pack], expected: list[list[dict[int, Tensor]]]) -> float:
    """The largest difference between packed and one by one at any position and layer, relative to a state's length."""
    states = packed(model, packs)
    return max(
        _difference({layer: state[row, trie.places(sentence)] for layer, state in states.items()}, wanted)
        for row, trie in enumerate(packs)
        for sentence, wanted in zip(trie.sentences, expected[row], strict=True)
    )


def row_difference(model: Model, packs: Sequence[Pack], expected: list[list[dict[int, Tensor]]]) -> float:
    """The same between one sentence a row and one by one."""
    sentences = [sentence for trie in packs for sentence in trie.sentences]
    states = in_rows(model, sentences)
    return max(
        _difference({layer: state[row, : len(sentence)] for layer, state in states.items()}, wanted)
        for row, (sentence, wanted) in enumerate(zip(sentences, chain.from_iterable(expected), strict=True))
    )


def implementations(model: Model) -> Iterator[str]:
    """Run the body once for each way of attending that the model has and that takes masks."""
    decoder: Any = model.decoder
    first = decoder.config._attn_implementation
    yield first
    if first == "sdpa" and decoder._can_set_attn_implementation():
        decoder.set_attn_implementation("eager")
        yield "eager"


def _states(model: Model, runs: Sequence[dict[str, Any]]) -> list[dict[int, Tensor]]:
    kept: list[dict[int, Tensor]] = []

    def keep(layer: int, state: Tensor) -> None:
        kept[-1][layer] = state.clone()

    with torch.inference_mode(), observe(model.blocks, range(model.n_layers + 1), keep):
        for inputs in runs:
            kept.append({})
            model.decoder(**inputs)
    return kept


def _difference(found: dict[int, Tensor], expected: dict[int, Tensor]) -> float:
    """NaN where anything is not finite, so that it is below nothing."""
    relative = [((found[layer] - expected[layer]).norm(dim=-1) / expected[layer].norm(dim=-1)).max() for layer in found]
    return float(torch.stack(relative).max())
