"""Which contexts a bank keeps, and the shortest set of token sequences that has to be run for them.

Decided from the text alone, before any model runs. The prefixes of a corpus form a trie: a node is a
(parent node, token id) pair, so equal prefixes are one node by what they are, not by a hash. The trie is
built one depth at a time with sorted arrays, in memory proportional to the corpus.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from patchlens.errors import CorpusError, ModelError, OptionError
from patchlens.inputs.corpus import Sentence
from patchlens.inputs.words import Words
from patchlens.progress import Report, silent
from patchlens.provenance import JSON

__all__ = ["MAX_POSITIONS", "Plan", "Selection", "make_plan"]

MAX_POSITIONS = 512
"""Positions of a sentence that are looked at; the same cut as the paper's and the reference package's."""

_CHUNK = 1024  # sentences tokenized at a time: enough for the tokenizer's threads, small beside the corpus

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Selection:
    """The rule by which contexts are kept."""

    per_token: int = 20
    """Contexts kept per token id, at most."""
    choose: str = "reservoir"
    """Which ones: a uniform choice by seed, or those that come first in the corpus."""
    words: str = "all"
    """Every token, or only those that end a word: there the model has seen the whole word."""
    skip_positions: int | None = None
    """Leave out this many positions at the start instead of only the first one (the reference package: 2)."""
    seed: int = 0
    """Seed of the reservoir."""
    max_positions: int = MAX_POSITIONS
    """Positions of a sentence that are looked at."""

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            OptionError: Names the option, what was given and what is possible.
        """
        for name, value, least in (
            ("per_token", self.per_token, 1),
            ("skip_positions", 0 if self.skip_positions is None else self.skip_positions, 0),
            ("seed", self.seed, 0),
            ("max_positions", self.max_positions, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
                raise OptionError(f"Choosing contexts: {name} is {value!r}. Expected a whole number from {least}.")
        for name, chosen, known in (
            ("choose", self.choose, ("reservoir", "first")),
            ("words", self.words, ("all", "final")),
        ):
            if chosen not in known:
                raise OptionError(f"Choosing contexts: {name} is {chosen!r}. Expected one of {', '.join(known)}.")

    @property
    def first_position(self) -> int:
        """First position that may be kept: never 0, the attention sink, whatever token stands there."""
        return max(1, self.skip_positions or 0)

    def to_json(self) -> dict[str, JSON]:
        """The rule as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Plan:
    """The contexts that a bank keeps, in row order (by sentence, then position), and what to run for them."""

    contexts: pa.Table
    """One row per context: the columns of contexts.parquet."""
    sentences: pa.Table
    """The sentences that contexts stand in: the columns of sentences.parquet."""
    token_ids: Ints
    """Token ids of all runs, one after the other."""
    starts: Ints
    """Where each run starts in `token_ids`, and at the end where the last one ends."""
    run_of_row: Ints
    """For each context the run that passes through it, at the context's position."""
    counts: dict[str, JSON]
    """What was read: sentences, tokens, prefixes (distinct ones), positions_run."""
    corpus: str
    """SHA-256 over the corpus's sentences."""

    def __len__(self) -> int:
        """Contexts kept."""
        return len(self.run_of_row)


def make_plan(tokenizer: Any, sentences: Sequence[Sentence], selection: Selection, report: Report = silent) -> Plan:
    """Choose the contexts of a bank and the sequences to run.

    Two occurrences of the same prefix are one context, shown in the first sentence that has it (with
    words="final": the first in which the token ends a word). Special tokens and the first position are never
    kept. The reservoir keeps, per token id, the contexts with the smallest seeded hash of their prefix: a
    uniform choice that does not depend on the corpus's order.

    Args:
        tokenizer: A fast tokenizer of transformers; its padding and truncation settings play no part.
        sentences: The corpus.
        selection: The rule.
        report: Called with stage "plan" and sentences done.

    Raises:
        ModelError: The tokenizer has no fast version, so it gives no character offsets.
        CorpusError: No token of the corpus can be kept.
    """
    tokens = _tokenize(tokenizer, sentences, selection, report)
    if not tokens.eligible.any():
        raise CorpusError(
            f"Choosing contexts: none of the {len(tokens.ids):,} tokens of {len(sentences):,} sentences can be kept. "
            "The first position and special tokens never are; give longer sentences, or check skip_positions and words."
        )
    trie = _build_trie(tokens, selection.seed)
    chosen = _choose(trie, selection)
    leaf = _leaves(trie, chosen)
    leaves, run_of_row = np.unique(leaf[chosen], return_inverse=True)
    ends = zip(trie.owner[leaves].tolist(), trie.depth[leaves].tolist(), strict=True)
    runs = [tokens.of(sentence)[: depth + 1] for sentence, depth in ends]
    kept, sentence_of_row = np.unique(trie.owner[chosen], return_inverse=True)
    return Plan(
        contexts=_contexts(tokenizer, tokens, sentences, trie.owner[chosen], trie.depth[chosen], sentence_of_row),
        sentences=_sentences([sentences[index] for index in kept]),
        token_ids=np.concatenate(runs).astype(np.int64),
        starts=np.cumsum([0, *map(len, runs)], dtype=np.int64),
        run_of_row=run_of_row.astype(np.int64),
        counts={
            "sentences": len(sentences),
            "tokens": len(tokens.ids),
            "prefixes": len(trie.token),
            "positions_run": sum(map(len, runs)),
        },
        corpus=_fingerprint(sentences),
    )


@dataclass(frozen=True, eq=False)
class _Tokens:
    """The tokens of a corpus, flat, cut at the last position looked at."""

    ids: npt.NDArray[np.int32]
    spans: npt.NDArray[np.int32]  # [token, 2] characters
    eligible: Mask
    starts: Ints  # [sentence + 1]

    def of(self, sentence: int) -> npt.NDArray[np.int32]:
        return self.ids[self.starts[sentence] : self.starts[sentence + 1]]


@dataclass(frozen=True, eq=False)
class _Trie:
    """The distinct prefixes of a corpus, shallow ones first. All arrays have one entry a node."""

    parent: Ints  # -1 at depth 0
    token: Ints
    depth: Ints
    owner: Ints  # first sentence where the prefix may be kept, or -1
    rank: npt.NDArray[np.uint64]  # seeded hash of the prefix, for the reservoir alone
    levels: list[slice]  # the nodes of each depth


def _tokenize(tokenizer: Any, sentences: Sequence[Sentence], selection: Selection, report: Report) -> _Tokens:
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"Planning a bank: {type(tokenizer).__name__} is not a fast tokenizer, so it cannot say which characters "
            "a token covers. Expected one with a tokenizer.json; convert it with transformers' AutoTokenizer."
        )
    special = np.array(sorted(_special_ids(tokenizer)), dtype=np.int32)
    parts: list[_Tokens] = []
    for start in range(0, len(sentences), _CHUNK):
        report("plan", start, len(sentences))
        parts.append(_tokenize_chunk(tokenizer, sentences[start : start + _CHUNK], selection, special))
    report("plan", len(sentences), len(sentences))
    lengths = np.concatenate([np.diff(part.starts) for part in parts])
    return _Tokens(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.spans for part in parts]),
        np.concatenate([part.eligible for part in parts]),
        np.concatenate([[0], np.cumsum(lengths)]),
    )


def _tokenize_chunk(
    tokenizer: Any, sentences: Sequence[Sentence], selection: Selection, special: npt.NDArray[np.int32]
) -> _Tokens:
    encoded = tokenizer(
        [sentence.text for sentence in sentences],
        padding=False,
        truncation=False,  # ours, here: the tokenizer's may cut the start, or put a special token at the cut
        return_attention_mask=False,
        return_token_type_ids=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    cut = slice(selection.max_positions)
    rows = [row[cut] for row in encoded["input_ids"]]
    spans = [span[cut] for span in encoded["offset_mapping"]]
    starts = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    ids = np.fromiter(chain.from_iterable(rows), np.int32, starts[-1])
    flat = np.array([pair for span in spans for pair in span], dtype=np.int32).reshape(-1, 2)
    position = np.arange(len(ids), dtype=np.int64) - np.repeat(starts[:-1], np.diff(starts))
    eligible = ~np.isin(ids, special) & (position >= selection.first_position)
    if selection.words == "final":
        ends = [_completing(sentence.text, span) for sentence, span in zip(sentences, spans, strict=True)]
        eligible &= np.fromiter(chain.from_iterable(ends), np.bool_, len(ids))
    return _Tokens(ids, flat, eligible, starts)


def _completing(text: str, spans: list[tuple[int, int]]) -> list[bool]:
    words = Words(text)
    # A character of several byte tokens is complete with the last of them; special tokens span nothing.
    split = [after[0] < span[1] and after[0] < after[1] for span, after in pairwise([*spans, (0, 0)])]
    return [words.completes(*span) and not cut for span, cut in zip(spans, split, strict=True)]


def _special_ids(tokenizer: Any) -> set[int]:
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def _build_trie(tokens: _Tokens, seed: int) -> _Trie:
    lengths = np.diff(tokens.starts)
    node = np.full(len(lengths), -1, dtype=np.int64)  # of each sentence's prefix so far
    active = np.arange(len(lengths), dtype=np.int64)
    parents, ids, owners, ranks, levels = [], [], [], [], []
    above, above_base, base = np.array([seed], dtype=np.uint64), -1, 0
    for depth in range(int(lengths.max(initial=0))):
        active = active[lengths[active] > depth]
        at = tokens.starts[active] + depth
        # Exact: a node number and a token id are below 2^31, so the pair fits into one integer.
        keys, inverse = np.unique((node[active] + 1) << 32 | tokens.ids[at], return_inverse=True)
        parent, token = (keys >> 32) - 1, keys & 0xFFFFFFFF
        owner = np.full(len(keys), -1, dtype=np.int64)
        may = tokens.eligible[at]
        owner[inverse[may][::-1]] = active[may][::-1]  # the last assignment stands: the first sentence
        rank = _mixed(above[parent - above_base], token)
        node[active] = base + inverse
        levels.append(slice(base, base + len(keys)))
        parents.append(parent)
        ids.append(token)
        owners.append(owner)
        ranks.append(rank)
        above, above_base, base = rank, base, base + len(keys)
    depths = [np.full(level.stop - level.start, depth, dtype=np.int64) for depth, level in enumerate(levels)]
    return _Trie(
        parent=np.concatenate(parents),
        token=np.concatenate(ids),
        depth=np.concatenate(depths),
        owner=np.concatenate(owners),
        rank=np.concatenate(ranks),
        levels=levels,
    )


def _mixed(above: npt.NDArray[np.uint64], token: Ints) -> npt.NDArray[np.uint64]:
    """One step of a hash along the prefix (splitmix64, Steele et al. 2014), wrapping at 2^64."""
    mixed = above * np.uint64(0xD1342543DE82EF95) + token.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _choose(trie: _Trie, selection: Selection) -> Ints:
    """The nodes kept, by sentence and then position."""
    nodes = np.flatnonzero(trie.owner >= 0)
    token, owner, depth = trie.token[nodes], trie.owner[nodes], trie.depth[nodes]
    rank = trie.rank[nodes] if selection.choose == "reservoir" else np.zeros(len(nodes), dtype=np.uint64)
    order = np.lexsort((depth, owner, rank, token))
    grouped = token[order]
    group_start = np.maximum.accumulate(
        np.where(np.diff(grouped, prepend=-1) != 0, np.arange(len(grouped), dtype=np.int64), 0)
    )
    kept = order[np.arange(len(grouped), dtype=np.int64) - group_start < selection.per_token]
    return nodes[kept[np.lexsort((depth[kept], owner[kept]))]]


def _leaves(trie: _Trie, chosen: Ints) -> Ints:
    """For each node, the end of a run that passes through it: the node itself unless one is needed below it."""
    leaf = np.full(len(trie.token), -1, dtype=np.int64)
    wanted = np.zeros(len(trie.token), dtype=bool)
    wanted[chosen] = True
    for level in reversed(trie.levels):
        nodes = np.arange(level.start, level.stop, dtype=np.int64)
        ends = nodes[wanted[level] & (leaf[level] < 0)]
        leaf[ends] = ends
        needed = nodes[(leaf[level] >= 0) & (trie.parent[level] >= 0)]
        leaf[trie.parent[needed]] = leaf[needed]
    return leaf


def _contexts(
    tokenizer: Any, tokens: _Tokens, sentences: Sequence[Sentence], owner: Ints, depth: Ints, sentence_of_row: Ints
) -> pa.Table:
    at = tokens.starts[owner] + depth
    token_ids = tokens.ids[at].tolist()
    token_spans, word_spans, words = [], [], []
    text, known, last = "", Words(""), -1
    for index, (start, end) in zip(owner.tolist(), tokens.spans[at].tolist(), strict=True):
        if index != last:
            text, last = sentences[index].text, index
            known = Words(text)
        token_spans.append(known.bare(start, end))
        word_spans.append(known.around(start, end))
        words.append(text[slice(*word_spans[-1])])
    return pa.table(
        {
            "token_id": pa.array(token_ids, pa.int32()),
            "sentence": pa.array(sentence_of_row, pa.int32()),
            "position": pa.array(depth, pa.int32()),
            "word_start": pa.array([start for start, _ in word_spans], pa.int32()),
            "word_end": pa.array([end for _, end in word_spans], pa.int32()),
            "token_start": pa.array([start for start, _ in token_spans], pa.int32()),
            "token_end": pa.array([end for _, end in token_spans], pa.int32()),
            "word": pa.array(words, pa.string()),
            "token": pa.array(tokenizer.convert_ids_to_tokens(token_ids), pa.string()),
        }
    )


def _sentences(kept: Sequence[Sentence]) -> pa.Table:
    return pa.table(
        {
            "id": pa.array(range(len(kept)), pa.int32()),
            "text": pa.array([sentence.text for sentence in kept], pa.string()),
            "source": pa.array([sentence.source for sentence in kept], pa.string()),
        }
    )


def _fingerprint(sentences: Sequence[Sentence]) -> str:
    digest = hashlib.sha256()
    for sentence in sentences:
        digest.update(sentence.text.encode() + b"\n")
    return digest.hexdigest()
