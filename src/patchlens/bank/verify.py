"""Reading a whole bank and checking it, down to rows computed anew. Opening a bank checks only what costs no time.

What is looked for here are faults of what was written: hashes say that nothing changed since.
"""

from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from patchlens.bank import format as layout
from patchlens.bank.bank import Bank
from patchlens.bank.encoding import DTYPES, Encoded, row_bytes
from patchlens.capture.text import last_states
from patchlens.errors import BankCorrupt, BankMismatch
from patchlens.progress import Report, silent

if TYPE_CHECKING:
    import patchlens.models.model

__all__ = ["verify"]

Array = np.ndarray[Any, np.dtype[Any]]

RECOMPUTED = 64
"""Rows computed anew when the model is at hand."""

_BLOCK_BYTES = 64 << 20  # of rows looked at together, in float32

_ROUNDOFF = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}

# The least that two computations may differ, as a distance: in float32 the sums themselves err, by d_model and kernel.
_SAME = 1e-3

_NUMBERS = tuple(field.name for field in layout.CONTEXT_COLUMNS if field.type == pa.int32())


def verify(bank: Bank, report: Report = silent, model: "patchlens.models.model.Model | None" = None) -> None:
    """Check everything; see `Bank.verify`."""
    made = bank.provenance
    if model is not None and model.fingerprint != made.fingerprint:
        raise BankMismatch(
            f"Checking the bank {bank.folder}: it was built with {made.model} (weights {made.fingerprint[:12]}…); "
            f"{model.name} has weights {model.fingerprint[:12]}…. Load the bank's model, or check without a model."
        )
    total = 2 * sum(file["bytes"] for file in bank.manifest.files.values())
    done = 0
    for name, expected in bank.manifest.files.items():
        layout.check_hash(bank.folder, name, expected["sha256"])
        done += expected["bytes"]
        report("verify", done, total)
    _verify_tables(bank)
    for layer in bank.layers:
        for start, encoded in bank.encoded(layer, max(1, _BLOCK_BYTES // (4 * bank.d_model))):
            _verify_rows(bank, layer, start, encoded)
            done += len(encoded) * row_bytes(bank.d_model, bank.dtype)
            report("verify", done, total)
    report("verify", total, total)
    if model is not None:
        _recompute(bank, model, report)


def _verify_tables(bank: Bank) -> None:
    contexts = _columns(bank, layout.CONTEXTS, bank.contexts, layout.CONTEXT_COLUMNS)
    sentences = _columns(bank, layout.SENTENCES, bank.sentences, layout.SENTENCE_COLUMNS)
    if len(contexts) != len(bank):
        raise _corrupt(bank, f"contexts.parquet has {len(contexts):,} rows, expected {len(bank):,}")
    if not np.array_equal(sentences["id"].to_numpy(), np.arange(len(sentences))):
        raise _corrupt(bank, "the ids in sentences.parquet are not its row numbers 0, 1, 2, …")
    numbers = {name: contexts[name].to_numpy() for name in _NUMBERS}
    sentence = numbers["sentence"]
    # Behind the last sentence one without characters, for numbers that are out of range.
    length = np.append(pc.utf8_length(sentences["text"]).to_numpy(), 0)[np.clip(sentence, -1, len(sentences))]
    wrong = {
        "token_id": numbers["token_id"] < 0,
        "position": numbers["position"] < 0,
        "sentence": (sentence < 0) | (sentence >= len(sentences)),
        "word_end": _outside(numbers["word_start"], numbers["word_end"], length),
        "token_end": _outside(numbers["token_start"], numbers["token_end"], length),
    }
    for column, rows in wrong.items():
        if rows.any():
            row = int(np.flatnonzero(rows)[0])
            raise _corrupt(
                bank,
                f"row {row:,} of contexts.parquet has a {column} that cannot be: "
                f"{ {name: int(values[row]) for name, values in numbers.items()} } with {len(sentences):,} sentences, "
                f"this one of {length[row]:,} characters",
            )
    _refuse_repeated(bank, contexts, sentences)


def _outside(start: Array, end: Array, length: Array) -> Array:
    return (start < 0) | (end < start) | (end > length)


def _columns(bank: Bank, name: str, table: pa.Table, expected: pa.Schema) -> pa.Table:
    """The table with the columns that it should have, and nothing missing in them."""
    try:
        found = table.select(expected.names).cast(expected)
    except (KeyError, pa.lib.ArrowException) as error:
        raise _corrupt(
            bank,
            f"{name} has the columns {', '.join(map(str, table.schema))}, expected {', '.join(map(str, expected))}",
        ) from error
    for column in expected.names:
        if found[column].null_count:
            raise _corrupt(bank, f"{name} has {found[column].null_count:,} rows without {column}, expected none")
    return found


def _refuse_repeated(bank: Bank, contexts: pa.Table, sentences: pa.Table) -> None:
    """No context stands in two rows: of equal rank, and equal in the text that the model saw."""
    ranks = contexts["rank"].to_numpy()
    order = np.argsort(ranks, kind="stable")
    same = np.flatnonzero(np.diff(ranks[order]) == 0)  # rarely any: equal ranks of two contexts are an accident
    seen: dict[tuple[int, str], int] = {}
    for at in np.union1d(same, same + 1).tolist():
        row = int(order[at])
        sentence, end = contexts["sentence"][row].as_py(), contexts["token_end"][row].as_py()
        key = int(ranks[row]), sentences["text"][sentence].as_py()[:end]
        if (first := seen.setdefault(key, row)) != row:
            raise _corrupt(
                bank, f"rows {first:,} and {row:,} are the same context, '{key[1][-80:]}'; expected no row twice"
            )


def _verify_rows(bank: Bank, layer: int, start: int, encoded: Encoded) -> None:
    lengths = torch.linalg.vector_norm(encoded.vectors.float(), dim=-1)
    if encoded.scales is not None:
        lengths = lengths * encoded.scales
    tolerance = DTYPES[bank.dtype].error(bank.d_model, encoded.scales).expand(len(encoded))
    wrong = ~((lengths - 1).abs() <= tolerance)  # so that NaN is wrong too
    if wrong.any():
        at = int(wrong.nonzero()[0])
        raise _corrupt(
            bank,
            f"row {start + at:,} at layer {layer} has length {float(lengths[at]):.4g}, "
            f"expected 1 within {float(tolerance[at]):.2g}",
        )


def _recompute(bank: Bank, model: "patchlens.models.model.Model", report: Report) -> None:
    rows = np.sort(np.random.default_rng(0).choice(len(bank), min(RECOMPUTED, len(bank)), replace=False))
    chosen = torch.from_numpy(rows)
    stored = {layer: bank.take(layer, chosen) for layer in bank.layers}
    contexts = bank.contexts.take(pa.array(rows))
    texts = bank.sentences["text"].take(contexts["sentence"]).to_pylist()
    for at, (row, text) in enumerate(zip(contexts.to_pylist(), texts, strict=True)):
        report("recompute", at, len(rows))
        states = last_states(model, _prefix(bank, model, int(rows[at]), row, text), bank.layers)
        for layer, state in states.items():
            found = torch.nn.functional.cosine_similarity(state.double(), stored[layer].vectors[at].double(), dim=0)
            expected = _least_cosine(bank, model, layer, stored[layer][at : at + 1])
            if not found >= expected:
                raise _corrupt(
                    bank,
                    f"row {int(rows[at]):,} ('{row['token']}' at position {row['position']} of '{text[:80]}') computed "
                    f"anew at layer {layer} has cosine {float(found):.6f} with what is stored, "
                    f"expected at least {expected:.6f}",
                )
    report("recompute", len(rows), len(rows))


def _prefix(
    bank: Bank, model: "patchlens.models.model.Model", number: int, row: dict[str, Any], text: str
) -> list[int]:
    """The token ids of a context, up to and including its own."""
    encoded = model.tokenizer([text], padding=False, truncation=False, verbose=False)
    ids = encoded["input_ids"][0][: row["position"] + 1]
    if len(ids) <= row["position"] or ids[-1] != row["token_id"]:
        what = f"row {number:,} is token {row['token_id']} at position {row['position']} of '{text[:80]}'"
        if model.tokenizer_fingerprint != bank.provenance.tokenizer:
            raise BankMismatch(
                f"Checking the bank {bank.folder}: {what}, where the tokenizer of {model.name} has "
                f"{ids[row['position'] :] or 'none'}. The bank was built with another tokenizer; load that one, or "
                "check without a model."
            )
        raise _corrupt(bank, f"{what}, where the tokenizer has {ids[row['position'] :] or 'none'}")
    return list(ids)


def _least_cosine(bank: Bank, model: "patchlens.models.model.Model", layer: int, row: Encoded) -> float:
    """The least cosine that rounding explains between a stored row and its state computed again.

    Two errors add up, as distances between unit vectors; a distance e means a cosine of at least sqrt(1 - e²).
    The first is that of the stored type. The second is that of two computations in a type of unit roundoff u: some
    ten results are rounded in each block (two norms, queries and keys, values, weights, their sum, its projection, the
    hidden layer twice, its projection, the residual stream) with relative errors of u and random sign, which add up
    to u·√10 a block and u·√(20·blocks) over two computations; twice that for what the blocks make of earlier errors.
    Measured on small trained and random models of up to eight blocks: at most a third of it in bfloat16 and float16.
    """
    stored = DTYPES[bank.dtype].error(bank.d_model, row.scales)
    types = {
        str(bank.provenance.settings.get("compute_dtype")),
        str(model.dtype).removeprefix("torch."),
    }
    # What an imported bank was computed in is not known; the coarsest type is assumed.
    roundoff = max(_ROUNDOFF.get(name, max(_ROUNDOFF.values())) for name in types)
    computed = max(2 * roundoff * sqrt(20 * (layer + 1)), _SAME)
    distance = float(stored) + computed
    return sqrt(max(0.0, 1 - distance**2)) if distance < 1 else -1.0


def _corrupt(bank: Bank, found: str) -> BankCorrupt:
    return BankCorrupt(f"Checking the bank {bank.folder}: {found}. Build the bank again.")
