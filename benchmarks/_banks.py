"""What the bank benchmarks measure of patchlens, each function in a process of its own; plain JSON values."""

from collections import defaultdict
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from transformers import AutoTokenizer

import _reference as reference
import patchlens as pl
from _measure import Stages, peak_memory
from patchlens.bank import format as layout
from patchlens.bank.encoding import encode
from patchlens.bank.merge import shard_rows
from patchlens.bank.plan import Plan, Selection, make_plan
from patchlens.inputs.corpus import read_corpus
from patchlens.picturebook import EMBEDDED
from patchlens.provenance import Provenance

Row = dict[str, Any]

RULES = ("first", "reservoir", "spread")
_PART = 1 << 14  # rows compared at a time


def build(model: Path, corpus: Path, out: Path, **options: Any) -> Row:
    """Build a bank: how long it took, in all and by stage, and the most memory held."""
    stages, build_bank = Stages(), pl.build_bank  # imported here, before the clock starts
    started = perf_counter()
    bank = build_bank(model, corpus, out, report=stages, **options)
    seconds, memory = perf_counter() - started, peak_memory()
    return {
        "seconds": seconds,
        "stages": stages.seconds(),
        "peak_bytes": memory,
        "rows": len(bank),
        "layers": list(bank.layers),
        "positions": bank.manifest.corpus["prefixes_run"],
    }


def compare(model: Path, theirs: Path, ours: Path) -> Row:
    """The contexts that only one of the two has, and how far the vectors of the others are apart.

    The reference counts by decoded string, patchlens by token: where several tokens have one string (parts of a
    character all give the replacement character) they may keep other contexts.
    """
    strings = defaultdict(list)
    tokenizer = AutoTokenizer.from_pretrained(model)
    for token in range(len(tokenizer)):
        strings[tokenizer.decode([token])].append(token)
    alike = {token: string for string, tokens in strings.items() if len(tokens) > 1 for token in tokens}

    bank, of_theirs = pl.open_bank(ours), reference.rows(theirs)
    text = bank.sentences["text"].to_pylist()
    columns = (bank.contexts[name].to_pylist() for name in ("token_id", "sentence", "position"))
    found = enumerate(zip(*columns, strict=True))
    of_ours = {(token, text[sentence], position): row for row, (token, sentence, position) in found}

    shared = sorted(of_ours.keys() & of_theirs.keys())
    other = sorted(of_ours.keys() ^ of_theirs.keys())
    at_ours = torch.tensor([of_ours[context] for context in shared])
    at_theirs = torch.tensor([of_theirs[context] for context in shared])
    worst = {}
    for layer in bank.layers:
        a, b = bank.vectors(layer), torch.from_numpy(reference.vectors(theirs, layer))
        parts = zip(at_ours.split(_PART), at_theirs.split(_PART), strict=True)
        worst[layer] = max(float((a[i].float() - b[j]).abs().max()) for i, j in parts)
    return {
        "shared": len(shared),
        "only_ours": len(of_ours.keys() - of_theirs.keys()),
        "only_theirs": len(of_theirs.keys() - of_ours.keys()),
        "of_strings_of_several_tokens": sorted({alike[token] for token, _, _ in other if token in alike}),
        "unexplained": [list(context) for context in other if context[0] not in alike],
        "worst_difference": worst,
    }


def cosines(exact: Path, other: Path) -> Row:
    """Cosine between the rows of two banks with the same contexts, by layer."""
    a, b = pl.open_bank(exact), pl.open_bank(other)
    assert a.contexts.equals(b.contexts), "the two banks hold different contexts"
    result = {}
    for layer in a.layers:
        pairs = zip(a.vectors(layer).split(_PART), b.vectors(layer).split(_PART), strict=True)
        cosine = torch.cat([torch.cosine_similarity(x.double(), y.double(), dim=-1) for x, y in pairs])
        result[layer] = {"mean": float(cosine.mean()), "worst": float(cosine.min())}
    return result


def plan(model: Path, corpus: Path, **selection: Any) -> Row:
    """What a rule keeps of a corpus and what has to be run for that, and the most memory held; no model runs."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    row, _ = _plan(tokenizer, corpus, Selection(**selection))
    return row | {"peak_bytes": peak_memory()}


def rules(model: Path, corpus: Path, **selection: Any) -> list[Row]:
    """The same of each rule, with the variety of the contexts that it keeps.

    Variety is that of the tokens of which there are as many contexts as may be kept, or more: "first" keeps as many.
    """
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows, full = [], None
    for choose in RULES:
        row, found = _plan(tokenizer, corpus, Selection(choose=choose, **selection))
        token = found.contexts["token_id"].to_numpy()
        full = np.bincount(token) == selection["per_token"] if full is None else full
        rows.append({"choose": choose, **row, "attended": _attended(found), **_variety(found, full)})
    return rows


def _plan(tokenizer: Any, corpus: Path, selection: Selection) -> tuple[Row, Plan]:
    started = perf_counter()
    found = make_plan(tokenizer, read_corpus(corpus), selection)
    seconds = perf_counter() - started
    return {
        **{name: found.counts[name] for name in ("sentences", "tokens", "prefixes", "prefixes_run")},
        "rows": len(found),
        "run_per_row": found.counts["prefixes_run"] / len(found),
        "seconds": seconds,
    }, found


def _attended(found: Plan) -> int:
    """Pairs of a position that is run and one that it sees, itself included."""
    lengths = np.diff(found.starts)
    depth = np.arange(len(found.token_ids)) - np.repeat(found.starts[:-1], lengths)
    return int((depth[depth >= np.repeat(found.shared, lengths)] + 1).sum())


def _variety(found: Plan, full: npt.NDArray[np.bool_]) -> Row:
    """Of these tokens, on average: contexts kept, and distinct sentences, tokens before and pairs of tokens before."""
    token, sentence, position = (
        found.contexts[name].to_numpy().astype(np.int64) for name in ("token_id", "sentence", "position")
    )
    at = found.starts[found.run_of_row] + position
    before = found.token_ids[at - 1].astype(np.int64)
    pair = np.where(position > 1, found.token_ids[at - 2], -1).astype(np.int64) << 32 | before
    kept = full[token]

    def distinct(what: npt.NDArray[np.int64]) -> float:
        return np.unique(np.stack([token[kept], what[kept]]), axis=1).shape[1] / max(1, int(full.sum()))

    return {
        "full_tokens": int(full.sum()),
        "contexts": kept.sum() / max(1, int(full.sum())),
        "sentences_of_them": distinct(sentence),
        "tokens_before": distinct(before),
        "pairs_before": distinct(pair),
    }


def distances(folder: Path, layers: str, per_token: int) -> list[Row]:
    """Mean cosine distance between two contexts of a token, by rule, in a model that was trained: the embedded one.

    Of the same tokens as in `rules`, as far as two contexts of them are kept.
    """
    rows, full = [], None
    options = {"layers": layers, "per_token": per_token, "dtype": "float32"}
    for choose in RULES:
        bank = pl.build_bank(EMBEDDED.name, EMBEDDED.corpus(), folder / choose, choose=choose, **options)
        token = torch.from_numpy(bank.contexts["token_id"].to_numpy().astype(np.int64))
        count = torch.bincount(token)
        full = count == per_token if full is None else full
        several, result = full & (count > 1), {}
        for layer in bank.layers:
            total = torch.zeros(len(count), bank.d_model).index_add_(0, token, bank.vectors(layer))
            alike = (total.square().sum(dim=-1) - count) / (count * (count - 1))
            result[layer] = float(1 - alike[several].mean())
        rows.append(
            {
                "choose": choose,
                "rows": len(bank),
                "run_per_row": bank.manifest.corpus["prefixes_run"] / len(bank),
                "full_tokens": int(full.sum()),
                "contexts": float(count[full].float().mean()),
                "distance": result,
            }
        )
    return rows


def write_bank(folder: Path, layers: dict[int, torch.Tensor], dtype: str) -> Path:
    """A bank of vectors that come from no build: each row is one word in a sentence of its own.

    Args:
        folder: Where, not there yet.
        layers: Rows of length 1 in float32.
        dtype: What they are stored as.
    """
    folder.mkdir(parents=True)
    rows, d_model = next(iter(layers.values())).shape
    words = [f"w{row}" for row in range(rows)]
    spans = {"word_start": [0] * rows, "word_end": [len(word) for word in words]}
    tokens = {
        "token_start": [0] * rows,
        "token_end": spans["word_end"],
        "token_id": range(rows),
        "position": [1] * rows,
    }
    contexts = {"sentence": range(rows), "word": words, "token": words, "rank": range(rows), **spans, **tokens}
    sentences = {"id": range(rows), "text": [f"{word} stands here" for word in words], "source": ["made up"] * rows}
    layout.write_table(pa.table(contexts, schema=layout.CONTEXT_COLUMNS), folder / layout.CONTEXTS)
    layout.write_table(pa.table(sentences, schema=layout.SENTENCE_COLUMNS), folder / layout.SENTENCES)
    files = layout.VectorFiles.create(folder, tuple(layers), shard_rows(rows, d_model, dtype), d_model, dtype)
    for layer, vectors in layers.items():
        for start in range(0, rows, _PART):
            files.write(layer, start, encode(vectors[start : start + _PART], dtype))
    files.flush()
    made = Provenance(
        kind="bank",
        model="none",
        revision=None,
        fingerprint="none",
        tokenizer="none",
        versions={},
        settings={"per_token": None, "choose": "made up"},
    )
    layout.write_manifest(
        folder,
        layout.Manifest(made, {"sha256": "none"}, tuple(layers), d_model, dtype, rows, layout.describe(folder)),
    )
    return folder
