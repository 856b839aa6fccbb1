"""Which contexts a bank keeps, and the shortest set of token sequences that has to be run for them.

Decided from the text alone, before any model runs, in memory of some 60 bytes a token of the corpus.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open
from safetensors.numpy import save

from patchlens.bank.format import CONTEXTS, SENTENCES, write_table
from patchlens.bank.spread import needed_nodes
from patchlens.bank.trie import Ints, Mask, Small, Trie, build_trie
from patchlens.errors import CorpusError, ModelError, OptionError
from patchlens.inputs.corpus import Sentence
from patchlens.inputs.words import Words
from patchlens.progress import Report, silent
from patchlens.provenance import JSON

__all__ = ["MAX_POSITIONS", "RULES", "Plan", "Selection", "load_plan", "make_plan"]

MAX_POSITIONS = 512
"""Positions of a sentence that are looked at; the same cut as the paper's and the reference package's."""

RULES = ("spread", "first", "reservoir")
"""By which a token's contexts are chosen where there are more than its cap."""

_CHUNK = 1024  # sentences tokenized at a time: enough for the tokenizer's threads, small beside the corpus
_RUNS = "runs.safetensors"


@dataclass(frozen=True)
class Selection:
    """The rule by which contexts are kept."""

    per_token: int = 20
    """Contexts kept per token id, at most."""
    choose: str = "spread"
    """Which ones: "spread", the most different for the fewest prefixes to run, see `bank.spread`; those that come
    "first" in the corpus; or "reservoir", a uniform choice by seed."""
    words: str = "all"
    """Every token, or only those that end a word ("final"): there the model has seen the whole word."""
    skip_positions: int | None = None
    """Leave out this many positions at the start instead of only the first one (the reference package: 2)."""
    seed: int = 0
    """Seed of the choice."""
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
        for name, chosen, known in (("choose", self.choose, RULES), ("words", self.words, ("all", "final"))):
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
    """The contexts that a bank keeps, and what to run for them.

    A run is the beginning of a sentence up to the last context wanted in it. Runs stand in the order of their token
    ids, so that each shares with the one before it all that it shares with any before it; rows stand in the order of
    runs, then positions. A row belongs to the first run that has its prefix.
    """

    contexts: pa.Table
    """One row per context: the columns of contexts.parquet."""
    sentences: pa.Table
    """The sentences that contexts stand in: the columns of sentences.parquet."""
    token_ids: Small
    """Token ids of all runs, one after the other, each from its first token."""
    starts: Ints
    """Where each run starts in `token_ids`, and at the end where the last one ends."""
    shared: Small
    """How many leading tokens each run has in common with the one before it."""
    run_of_row: Ints
    """For each context the run that it belongs to, ascending."""
    counts: dict[str, JSON]
    """Of the corpus: sentences, tokens, prefixes (distinct ones); of the plan: prefixes_run."""
    corpus: str
    """SHA-256 over the corpus's sentences."""

    def __len__(self) -> int:
        """Contexts kept."""
        return len(self.run_of_row)

    @cached_property
    def positions(self) -> Small:
        """For each context its position in its run."""
        return np.asarray(self.contexts["position"].to_numpy(), dtype=np.int32)

    def only(self, rows: Mask) -> "Plan":
        """The plan for some of the contexts: shorter and fewer runs, and only the sentences that are left.

        Args:
            rows: For each context whether it stays.

        Raises:
            CorpusError: None does.
        """
        if not rows.any():
            raise CorpusError("Choosing contexts: none is left. Give sentences that hold other ones.")
        contexts = self.contexts.filter(pa.array(rows))
        kept, sentence = np.unique(contexts["sentence"].to_numpy(), return_inverse=True)
        contexts = contexts.set_column(
            contexts.schema.get_field_index("sentence"), "sentence", pa.array(sentence, pa.int32())
        )
        sentences = self.sentences.take(kept).set_column(0, "id", pa.array(range(len(kept)), pa.int32()))
        runs = _runs(self.token_ids, self.starts, self.shared, self.run_of_row[rows], self.positions[rows])
        return replace(
            self,
            contexts=contexts,
            sentences=sentences,
            **runs,
            counts={**self.counts, "prefixes_run": _prefixes(runs["starts"], runs["shared"])},
        )

    def rows_of(self, runs: range) -> range:
        """The rows that belong to some consecutive runs; they are consecutive too."""
        start, stop = np.searchsorted(self.run_of_row, [runs.start, runs.stop]).tolist()
        return range(start, stop)

    def shards(self, max_rows: int) -> list[range]:
        """Cut the runs into consecutive ranges of at most `max_rows` rows each; a run with more stands alone."""
        before = np.searchsorted(self.run_of_row, np.arange(len(self.starts), dtype=np.int64))
        cuts = [0]
        while cuts[-1] < len(self.starts) - 1:
            stop = int(np.searchsorted(before, before[cuts[-1]] + max_rows, side="right")) - 1
            cuts.append(max(stop, cuts[-1] + 1))
        return [range(*cut) for cut in pairwise(cuts)]

    def save(self, folder: Path) -> None:
        """Write the plan into a folder that exists; `load_plan` reads it back."""
        write_table(self.contexts, folder / CONTEXTS)
        write_table(self.sentences, folder / SENTENCES)
        arrays = {name: getattr(self, name) for name in ("token_ids", "starts", "shared", "run_of_row")}
        about = {"counts": json.dumps(self.counts), "corpus": self.corpus}
        # Not by safetensors' save_file, which hides what the disk said.
        (folder / _RUNS).write_bytes(save(arrays, metadata=about))


def load_plan(folder: Path) -> Plan:
    """Open a plan that `Plan.save` wrote; its tables are decoded into memory."""
    with safe_open(folder / _RUNS, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in ("token_ids", "starts", "shared", "run_of_row")}
        about = file.metadata()
    return Plan(
        contexts=pq.read_table(folder / CONTEXTS),
        sentences=pq.read_table(folder / SENTENCES),
        **arrays,
        counts=json.loads(about["counts"]),
        corpus=about["corpus"],
    )


def make_plan(tokenizer: Any, sentences: Iterable[Sentence], selection: Selection, report: Report = silent) -> Plan:
    """Choose the contexts of a bank and the sequences to run.

    Two occurrences of the same prefix are one context, shown in the first sentence that has it (with
    words="final": the first in which the token ends a word). Special tokens and the first position are never
    kept. The reservoir keeps, per token id, the contexts with the smallest seeded hash of their prefix: a
    uniform choice that does not depend on the corpus's order.

    Args:
        tokenizer: A fast tokenizer of transformers; its padding and truncation settings play no part.
        sentences: The corpus; read once.
        selection: The rule.
        report: Called with stage "plan" and sentences done.

    Raises:
        ModelError: The tokenizer has no fast version, so it gives no character offsets.
        CorpusError: No token of the corpus can be kept.
    """
    corpus = _read(tokenizer, sentences, selection, report)
    if not corpus.eligible.any():
        raise CorpusError(
            f"Choosing contexts: none of the {len(corpus.ids):,} tokens of {len(corpus.texts):,} sentences can be "
            "kept. The first position and special tokens never are; give longer sentences, or check skip_positions "
            "and words."
        )
    trie = build_trie(corpus.ids, corpus.eligible, corpus.starts, selection.seed)
    chosen = _choose(trie, selection)
    position = trie.depth[chosen]
    runs = _runs(trie.token_ids, trie.starts, trie.shared, trie.path[chosen].astype(np.int64), position)
    kept, sentence = np.unique(trie.owner[chosen], return_inverse=True)
    return Plan(
        contexts=_contexts(tokenizer, corpus, trie.owner[chosen], position, sentence, trie.rank[chosen]),
        sentences=pa.table(
            {
                "id": pa.array(range(len(kept)), pa.int32()),
                "text": corpus.texts.take(kept).cast(pa.string()),
                "source": corpus.sources.take(kept).cast(pa.string()),
            }
        ),
        **runs,
        counts={
            "sentences": len(corpus.texts),
            "tokens": len(corpus.ids),
            "prefixes": len(trie.first),
            "prefixes_run": _prefixes(runs["starts"], runs["shared"]),
        },
        corpus=corpus.fingerprint,
    )


@dataclass(frozen=True, eq=False)
class _Corpus:
    """A corpus as read: its tokens flat, cut at the last position looked at."""

    ids: Small
    spans: Small  # [token, 2] characters
    eligible: Mask
    starts: Ints  # [sentence + 1]
    texts: pa.Array
    sources: pa.Array
    fingerprint: str


def _read(tokenizer: Any, sentences: Iterable[Sentence], selection: Selection, report: Report) -> _Corpus:
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"Planning a bank: {type(tokenizer).__name__} is not a fast tokenizer, so it cannot say which characters "
            "a token covers. Expected one with a tokenizer.json; convert it with transformers' AutoTokenizer."
        )
    special = np.array(sorted(_special_ids(tokenizer)), dtype=np.int32)
    digest, done, total = hashlib.sha256(), 0, len(sentences) if isinstance(sentences, Sequence) else 0
    parts: list[tuple[Small, Small, Mask, Ints]] = []
    texts: list[pa.Array] = []
    sources: list[pa.Array] = []
    report("plan", 0, total)
    for chunk in _chunks(sentences):
        parts.append(_tokenize(tokenizer, chunk, selection, special))
        texts.append(pa.array([sentence.text for sentence in chunk], pa.large_string()))
        sources.append(pa.array([sentence.source for sentence in chunk], pa.large_string()))
        for sentence in chunk:
            digest.update(sentence.text.encode() + b"\n")
        done += len(chunk)
        report("plan", done, total)
    if not parts:
        raise CorpusError("Planning a bank: the corpus holds no sentence. Give at least one.")
    ids, spans, eligible, lengths = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return _Corpus(ids, spans, eligible, starts, pa.concat_arrays(texts), pa.concat_arrays(sources), digest.hexdigest())


def _chunks(sentences: Iterable[Sentence]) -> Iterator[list[Sentence]]:
    iterator = iter(sentences)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk


def _tokenize(
    tokenizer: Any, sentences: Sequence[Sentence], selection: Selection, special: Small
) -> tuple[Small, Small, Mask, Ints]:
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
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    ids = np.fromiter(chain.from_iterable(rows), np.int32, lengths.sum())
    flat = np.fromiter(chain.from_iterable(chain.from_iterable(spans)), np.int32, 2 * len(ids)).reshape(-1, 2)
    position = np.arange(len(ids), dtype=np.int64) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    eligible = ~np.isin(ids, special) & (position >= selection.first_position)
    if selection.words == "final":
        ends = [_completing(sentence.text, span) for sentence, span in zip(sentences, spans, strict=True)]
        eligible &= np.fromiter(chain.from_iterable(ends), np.bool_, len(ids))
    return ids, flat, eligible, lengths


def _completing(text: str, spans: list[tuple[int, int]]) -> list[bool]:
    words = Words(text)
    # A character of several byte tokens is complete with the last of them; special tokens span nothing.
    split = [after[0] < span[1] and after[0] < after[1] for span, after in pairwise([*spans, (0, 0)])]
    return [words.completes(*span) and not cut for span, cut in zip(spans, split, strict=True)]


def _special_ids(tokenizer: Any) -> set[int]:
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def _choose(trie: Trie, selection: Selection) -> Ints:
    """The nodes kept, ascending."""
    nodes = np.flatnonzero(trie.owner >= 0)
    if selection.choose == "spread":
        nodes = nodes[needed_nodes(trie, selection.per_token)[nodes]]
    token = trie.token[nodes]
    match selection.choose:
        case "first":
            order = np.lexsort((trie.depth[nodes], trie.owner[nodes], token))
        case "reservoir":
            order = np.lexsort((trie.rank[nodes], token))
        case _:  # what is run anyway: as many different tokens before it as there are
            before = trie.token_ids[trie.first[nodes] - (trie.depth[nodes] > 0)]
            by_pair = np.lexsort((trie.rank[nodes], before, token))
            turn = np.empty(len(nodes), dtype=np.int64)
            turn[by_pair] = _places((token.astype(np.int64) << 32 | before)[by_pair])
            order = np.lexsort((trie.rank[nodes], turn, token))
    kept: Ints = nodes[order[_places(token[order]) < selection.per_token]]
    return np.sort(kept)


def _places(grouped: npt.NDArray[np.integer]) -> Ints:
    """For each item of a sorted array its place among equal ones."""
    places = np.arange(len(grouped), dtype=np.int64)
    opens = np.diff(grouped, prepend=grouped[:1] - 1) != 0
    return places - np.maximum.accumulate(np.where(opens, places, 0))


def _runs(token_ids: Small, starts: Ints, shared: Small, run_of_row: Ints, position: Small) -> dict[str, Any]:
    """Cut paths to what the rows need, and leave out those without a row."""
    paths, opens, run = np.unique(run_of_row, return_index=True, return_inverse=True)
    lengths = np.maximum.reduceat(position, opens).astype(np.int64) + 1
    # With the path before it, a path shares what all between them share, as far as that one still goes.
    common = np.minimum.reduceat(shared[: paths[-1] + 1], np.append(0, paths[:-1] + 1))
    common[0] = 0
    common[1:] = np.minimum(common[1:], lengths[:-1])
    # A run that is the beginning of the next one is computed there.
    stays = np.append(common[1:] != lengths[:-1], True)
    common = common[np.append(True, stays[:-1])]
    paths, lengths, run = paths[stays], lengths[stays], (np.cumsum(stays) - stays)[run]
    begin = np.concatenate([[0], np.cumsum(lengths)])
    at = np.repeat(starts[paths] - begin[:-1], lengths) + np.arange(begin[-1], dtype=np.int64)
    return {"token_ids": token_ids[at], "starts": begin, "shared": common, "run_of_row": run.astype(np.int64)}


def _prefixes(starts: Ints, shared: Small) -> int:
    return int(starts[-1] - shared.sum(dtype=np.int64))


def _contexts(
    tokenizer: Any,
    corpus: _Corpus,
    owner: Small,
    position: Small,
    sentence: Ints,
    rank: npt.NDArray[np.uint64],
) -> pa.Table:
    at = corpus.starts[owner] + position
    token_ids = corpus.ids[at]
    spans = np.empty((len(at), 4), dtype=np.int32)  # of the word, and of the token without white space
    words = np.empty(len(at), dtype=object)
    text, known, last = "", Words(""), -1
    for row in np.argsort(owner, kind="stable").tolist():
        if owner[row] != last:
            last = owner[row]
            text = corpus.texts[last].as_py()
            known = Words(text)
        start, end = corpus.spans[at[row]].tolist()
        word = known.around(start, end)
        spans[row] = (*word, *known.bare(start, end))
        words[row] = text[slice(*word)]
    return pa.table(
        {
            "token_id": pa.array(token_ids, pa.int32()),
            "sentence": pa.array(sentence, pa.int32()),
            "position": pa.array(position, pa.int32()),
            "word_start": pa.array(spans[:, 0]),
            "word_end": pa.array(spans[:, 1]),
            "token_start": pa.array(spans[:, 2]),
            "token_end": pa.array(spans[:, 3]),
            "word": pa.array(words, pa.string()),
            "token": pa.array(tokenizer.convert_ids_to_tokens(token_ids.tolist()), pa.string()),
            "rank": pa.array(rank, pa.uint64()),
        }
    )
