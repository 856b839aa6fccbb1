"""Several banks of one model as one, by the rules that they were built by: nothing is computed anew, no row is twice.

Knows nothing of models; `bank.adding` runs one for sentences that a bank lacks, and ends here.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from patchlens import __version__
from patchlens.bank import format as layout
from patchlens.bank.bank import Bank, open_bank
from patchlens.bank.encoding import Encoded, row_bytes
from patchlens.bank.format import Manifest, Mapped, VectorFiles
from patchlens.errors import BankMismatch, OptionError
from patchlens.progress import Report, silent
from patchlens.provenance import JSON, Provenance
from patchlens.storage import replacing_folder

__all__ = ["RULE", "check_alike", "kept_rows", "merge_banks", "shard_rows", "write_merged"]

RULE = ("per_token", "choose", "words", "skip_positions", "seed", "max_positions")
"""What a bank's settings say of the choice of its contexts."""

UNKNOWN = "unknown"
"""The fingerprint of a model or tokenizer that was not at hand when a bank was imported."""

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_BLOCK_BYTES = 16 << 20  # of one layer's rows, copied at a time
_TEXTS = 16_384  # sentences compared at a time


def merge_banks(
    banks: Sequence[str | Path | Bank], out: str | Path, *, overwrite: bool = False, report: Report = silent
) -> Bank:
    """Join banks of one model into a new one, as if it had been built from their corpora one after the other.

    A context that several banks hold is kept once, from the first that has it. Then each token id keeps at most as
    many contexts as the banks' own rule says: with `choose="reservoir"` those of the smallest rank, with "first" and
    "spread" those of earlier banks before those of later ones. For "reservoir" and "first" these are exactly the
    contexts that a build from all corpora at once keeps. Rows stand in the order of the banks. Equal inputs give
    equal bytes.

    Args:
        banks: At least two banks, opened or by folder or name.
        out: The folder to make; it may be one of the banks, with `overwrite`.
        overwrite: Replace a bank that is at `out`.
        report: Called with stage "merge" and rows copied, all layers counted.

    Returns:
        The new bank, opened.

    Raises:
        BankMismatch: The banks differ in model, tokenizer, layers, width, types or rule; the message names what.
        OptionError: Fewer than two banks, or something in the way at `out`.
        BankError: One of them cannot be opened.
        StorageError: The disk refused. Space for all vectors is taken before any is copied.

    Cost:
        Reading and writing each kept row once; memory for the tables and 16 MB of vectors.
    """
    opened = [open_bank(bank, report=report) for bank in banks]
    if len(opened) < 2:
        raise OptionError(f"Merging banks: found {len(opened)}. Expected at least two; name all that are to be one.")
    for other in opened[1:]:
        check_alike(opened[0], other)
    kept = kept_rows([(bank.contexts, bank.sentences) for bank in opened], opened[0].provenance.settings)
    with replacing_folder(Path(out), overwrite=overwrite, marker=layout.MANIFEST) as folder:
        write_merged(folder, opened, kept, report)
    return open_bank(out)


def check_alike(one: Bank, other: Bank) -> None:
    """Make sure that two banks hold rows of one kind, chosen by one rule.

    Raises:
        BankMismatch: Names everything in which they differ.
    """
    for bank in (one, other):
        if bank.provenance.fingerprint == UNKNOWN:
            raise BankMismatch(
                f"Merging the banks {one.folder} and {other.folder}: {bank.name} was imported without its model, so "
                "nobody knows whether they are of the same. Import it again with the model."
            )
        if "rank" not in bank.contexts.column_names or bank.contexts["rank"].null_count:
            raise BankMismatch(
                f"Merging the banks {one.folder} and {other.folder}: {bank.name} does not say by which rank its "
                "contexts were chosen, as banks of older releases do not. Build it again."
            )
    said, others = _kind(one), _kind(other)
    if differing := [f"{name} ({said[name]} and {others[name]})" for name in said if said[name] != others[name]]:
        raise BankMismatch(
            f"Merging the banks {one.folder} and {other.folder}, of {one.provenance.model} and "
            f"{other.provenance.model}: they differ in {', '.join(differing)}. Expected equal ones; build one of the "
            "banks again with the other's model and options."
        )


def kept_rows(tables: Sequence[tuple[pa.Table, pa.Table]], rule: Mapping[str, Any]) -> list[npt.NDArray[np.bool_]]:
    """Decide from tables alone which rows of several banks make one bank.

    Args:
        tables: Contexts and sentences of each bank, or of a plan.
        rule: What the banks' settings say under `RULE`. Where `per_token` is None, as in imported banks, no row is
            one too many.

    Returns:
        For each bank a mask over its rows.
    """
    offsets = np.cumsum([0, *(len(sentences) for _, sentences in tables)])
    columns = {name: _joined(tables, name) for name in ("token_id", "position", "rank", "sentence", "token_start")}
    lengths = [len(contexts) for contexts, _ in tables]
    sentence = columns["sentence"].astype(np.int64) + np.repeat(offsets[:-1], lengths)
    texts = pa.chunked_array([chunk for _, sentences in tables for chunk in sentences["text"].chunks], pa.string())
    kept = ~_repeated(columns, sentence, texts)
    if (per_token := rule["per_token"]) is not None:
        rows = np.flatnonzero(kept)
        token = columns["token_id"][rows]
        match rule["choose"]:
            case "reservoir":
                order = np.lexsort((columns["rank"][rows], token))
            case "first":
                order = np.lexsort((columns["position"][rows], sentence[rows], token))
            case _:
                order = np.argsort(token, kind="stable")
        grouped = token[order]
        place = np.arange(len(rows), dtype=np.int64) - np.searchsorted(grouped, grouped)
        kept[rows[order[place >= per_token]]] = False
    ends = np.cumsum(lengths).tolist()
    return [kept[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def shard_rows(rows: int, d_model: int, dtype: str) -> list[int]:
    """Rows of each vector file of a layer: as many as fit into the largest file."""
    most = max(1, layout.SHARD_BYTES // row_bytes(d_model, dtype))
    return [min(most, rows - start) for start in range(0, rows, most)]


def write_merged(folder: Path, banks: Sequence[Bank], kept: Sequence[npt.NDArray[np.bool_]], report: Report) -> None:
    """Write the bank of some rows of several banks into an empty folder.

    Args:
        folder: Where.
        banks: Banks that `check_alike` found alike.
        kept: For each a mask over its rows.
        report: Called with stage "merge" and rows copied, all layers counted.

    Raises:
        OSError: The disk refused.
    """
    contexts, sentences = _tables(banks, kept)
    layout.write_table(contexts, folder / layout.CONTEXTS)
    layout.write_table(sentences, folder / layout.SENTENCES)
    _copy_vectors(folder, banks, kept, report)
    first = banks[0].manifest
    layout.write_manifest(
        folder,
        replace(
            first,
            provenance=_provenance(banks, kept),
            corpus=_corpus([bank.manifest for bank in banks]),
            rows=len(contexts),
            files=layout.describe(folder),
        ),
    )


def _kind(bank: Bank) -> dict[str, JSON]:
    """All in which banks must agree, by the name that a message calls it."""
    made, settings = bank.provenance, bank.provenance.settings
    return {
        "weights": f"{made.fingerprint[:16]}…",
        "tokenizer": f"{made.tokenizer[:16]}…",
        "layers": ", ".join(map(str, bank.layers)),
        "d_model": bank.d_model,
        "dtype": bank.dtype,
        "compute_dtype": settings.get("compute_dtype"),
        **{name: settings.get(name) for name in RULE},
    }


def _joined(tables: Sequence[tuple[pa.Table, pa.Table]], name: str) -> "np.ndarray[Any, np.dtype[Any]]":
    return np.concatenate([contexts[name].to_numpy() for contexts, _ in tables])


def _repeated(
    columns: dict[str, "np.ndarray[Any, np.dtype[Any]]"], sentence: Ints, texts: pa.ChunkedArray
) -> npt.NDArray[np.bool_]:
    """Which rows are contexts that an earlier row is already.

    Equal rank, token id and position mean the same prefix but for a collision of 64-bit hashes; the sentences' equal
    text before the token leaves no doubt. Text that differs stays, even where a tokenizer cuts both alike.
    """
    repeated = np.zeros(len(sentence), dtype=np.bool_)
    keys = ("rank", "token_id", "position")
    order = np.lexsort([columns[name] for name in keys])
    opens = np.ones(len(order) + 1, dtype=np.bool_)
    opens[1:-1] = np.logical_or.reduce([np.diff(columns[name][order]) != 0 for name in keys])
    twins = ~(opens[:-1] & opens[1:])
    rows, groups = order[twins], np.cumsum(opens[:-1])[twins]
    group, before = -1, set[str]()
    for start in range(0, len(rows), _TEXTS):
        some = rows[start : start + _TEXTS]
        said = texts.take(sentence[some]).to_pylist()
        ends = columns["token_start"][some].tolist()
        for row, of, text, end in zip(some.tolist(), groups[start : start + _TEXTS].tolist(), said, ends, strict=True):
            if of != group:
                group, before = of, set()
            repeated[row] = text[:end] in before
            before.add(text[:end])
    return repeated


def _tables(banks: Sequence[Bank], kept: Sequence[Mask]) -> tuple[pa.Table, pa.Table]:
    contexts, sentences, known = [], [], 0
    for bank, rows in zip(banks, kept, strict=True):
        some = bank.contexts.filter(pa.array(rows))
        standing, sentence = np.unique(some["sentence"].to_numpy(), return_inverse=True)
        at = some.schema.get_field_index("sentence")
        contexts.append(some.set_column(at, "sentence", pa.array(known + sentence, pa.int32())))
        ids = pa.array(range(known, known + len(standing)), pa.int32())
        sentences.append(bank.sentences.take(standing).set_column(0, "id", ids))
        known += len(standing)
    return pa.concat_tables(contexts), pa.concat_tables(sentences)


def _copy_vectors(folder: Path, banks: Sequence[Bank], kept: Sequence[Mask], report: Report) -> None:
    first = banks[0].manifest
    rows = sum(int(part.sum()) for part in kept)
    per_block = max(1, _BLOCK_BYTES // row_bytes(first.d_model, first.dtype))
    shards = shard_rows(rows, first.d_model, first.dtype)
    files = VectorFiles.create(folder, first.layers, shards, first.d_model, first.dtype)
    done, total = 0, rows * len(first.layers)
    report("merge", done, total)
    for layer in first.layers:
        at = 0
        for bank, mask in zip(banks, kept, strict=True):
            for mapped in bank.shards[layer]:
                for some in _chosen(mapped, mask, per_block):
                    files.write(layer, at, some)
                    at += len(some)
                    done += len(some)
                    report("merge", done, total)
    files.flush()


def _chosen(mapped: Mapped, kept: Mask, size: int) -> Iterator[Encoded]:
    """The kept rows of a vector file as they are stored, at most `size` at a time."""
    for start, encoded in mapped.blocks(size):
        first = mapped.shard.start + start
        rows = torch.from_numpy(np.flatnonzero(kept[first : first + len(encoded)]))
        if len(rows):
            yield encoded.taken(rows)


def _provenance(banks: Sequence[Bank], kept: Sequence[Mask]) -> Provenance:
    first = banks[0].provenance
    parts: list[JSON] = []
    for bank, rows in zip(banks, kept, strict=True):
        settings, corpus = bank.provenance.settings, bank.manifest.corpus
        merged = settings.get("merged")
        if isinstance(merged, list):
            parts += merged
        else:
            of = {name: settings[name] for name in ("imported",) if name in settings}
            parts.append({"corpus": corpus["sha256"], "sentences": corpus["sentences"], "rows": int(rows.sum()), **of})
    releases: dict[str, list[str]] = {}
    for made in [{"patchlens": __version__}, *(bank.provenance.versions for bank in banks)]:
        for name, release in made.items():
            releases[name] = [*releases.get(name, []), release]
    return replace(
        first,
        versions={name: ", ".join(dict.fromkeys(found)) for name, found in releases.items()},
        settings={**{name: said for name, said in first.settings.items() if name != "imported"}, "merged": parts},
    )


def _corpus(manifests: Sequence[Manifest]) -> dict[str, JSON]:
    """One corpus out of several: the hash of their hashes, and sums; a prefix that two have counts twice."""
    corpora: list[dict[str, Any]] = [manifest.corpus for manifest in manifests]
    counts = {
        name: sum(corpus[name] for corpus in corpora)
        for name in corpora[0]
        if all(isinstance(corpus.get(name), int) for corpus in corpora)
    }
    digest = hashlib.sha256("".join(f"{corpus['sha256']}\n" for corpus in corpora).encode())
    return {"sha256": digest.hexdigest(), **counts}
