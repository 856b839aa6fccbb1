"""Tables that a study keeps: what lenses said of which patch, how states moved, what judges decided.

One Parquet file per table; each says in its metadata how it was made, and tables that do not belong together are
refused. Every number of a report comes from these rows. Needs no torch.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from patchlens.errors import StudyError
from patchlens.provenance import JSON
from patchlens.storage import readable, replacing

__all__ = [
    "CANDIDATES",
    "CAPTIONS",
    "REGIONS",
    "STATES",
    "VERDICTS_TABLE",
    "join",
    "made_with",
    "open_table",
    "save_table",
]

_VERSION = 1
_TEXT = pa.dictionary(pa.int32(), pa.string())

CANDIDATES = pa.schema(
    [
        ("model", _TEXT),  # as the study calls it
        ("lens", _TEXT),  # as the study calls it: "latent", or "latent, 1 % of the bank"
        ("baseline", _TEXT),  # null; "random rows"; "another image"
        ("image", _TEXT),
        ("judged", pa.bool_()),  # whether this is the patch in the middle of the image's region
        ("tile", pa.int32()),
        ("row", pa.int32()),
        ("column", pa.int32()),
        ("position", pa.int32()),
        ("layer", pa.int32()),
        ("rank", pa.int32()),  # from 1
        ("word", _TEXT),
        ("token", _TEXT),
        ("similarity", pa.float32()),
        ("logit", pa.float32()),
        ("context_layer", pa.int32()),
        ("sentence", _TEXT),
        ("word_start", pa.int32()),
        ("word_end", pa.int32()),
        ("bank_row", pa.int64()),
    ]
)
"""One row per candidate of a visual token that was read: those of the judged patch and of a sample of others."""

STATES = pa.schema(
    [
        ("model", _TEXT),
        ("image", _TEXT),
        ("kind", _TEXT),  # "visual" or "text"
        ("position", pa.int32()),
        ("layer", pa.int32()),
        ("norm", pa.float32()),  # Euclidean length
        ("drift", pa.float32()),  # cosine with the same token's state at layer 0
        ("largest", pa.float32()),  # largest absolute entry
    ]
)
"""One row per token and layer of the sample, text tokens of the prompt among them."""

REGIONS = pa.schema(
    [
        ("model", _TEXT),
        ("image", _TEXT),
        ("sha256", pa.string()),  # of the image's pixels
        ("tile", pa.int32()),
        ("row", pa.int32()),
        ("column", pa.int32()),
        ("position", pa.int32()),
        ("top", pa.float64()),
        ("left", pa.float64()),
        ("bottom", pa.float64()),
        ("right", pa.float64()),
    ]
)
"""One row per image: the region whose middle patch is judged, in pixels; null in the image's row if it has none."""

CAPTIONS = pa.schema([("model", _TEXT), ("image", _TEXT), ("caption", pa.string())])
"""One row per image: how the model described it."""

VERDICTS_TABLE = pa.schema(
    [
        ("judge", _TEXT),
        ("rubric", _TEXT),
        *((name, CANDIDATES.field(name).type) for name in CANDIDATES.names if name != "judged"),
        ("verdict", _TEXT),  # one of VERDICTS; null when undecided
        ("undecided", _TEXT),  # one of UNDECIDED; null when decided
        ("question", _TEXT),  # id, under which the exchange is kept
    ]
)
"""One row per candidate of a judged patch and judge."""


_KINDS: dict[str, pa.Schema] = {
    "candidates": CANDIDATES,
    "states": STATES,
    "regions": REGIONS,
    "captions": CAPTIONS,
    "verdicts": VERDICTS_TABLE,
}


def save_table(table: pa.Table, path: Path, kind: str, made: Mapping[str, JSON]) -> None:
    """Write one table, whole or not at all.

    Args:
        table: With the columns of its kind, in any order.
        path: The file to make or replace; its folder is made.
        kind: A key of this module's tables: "candidates", "states", "regions", "captions" or "verdicts".
        made: How it was made: model, weights, banks, seed. Tables with another record are not joined with it.

    Raises:
        StorageError: The disk refused.
    """
    schema = _KINDS[kind]
    about = {b"patchlens": json.dumps({"format": _VERSION, "kind": kind, "made": made}, sort_keys=True).encode()}
    whole = table.select(schema.names).cast(schema).replace_schema_metadata(about)
    with replacing(path) as temporary:
        pq.write_table(whole, temporary, compression="zstd")


def open_table(path: Path, kind: str) -> pa.Table:
    """Open what `save_table` wrote.

    Raises:
        StudyError: The file is missing, damaged, of another kind, or of a release that this one does not know.
        StorageError: The disk does not let it be read.
    """
    try:
        with readable(path):
            table = pq.read_table(path)
    except FileNotFoundError as error:
        raise StudyError(
            f"Opening {path}: there is no such file. Run the study again; it makes what is missing."
        ) from error
    except (pa.ArrowInvalid, OSError) as error:
        raise StudyError(
            f"Opening {path}: it is damaged or cut short ({str(error).splitlines()[0]}). Remove it and run the study "
            "again."
        ) from error
    about = _about(table)
    if about.get("kind") != kind or about.get("format") != _VERSION:
        found = f"a table of kind {about.get('kind')!r} in format {about.get('format')!r}" if about else "another table"
        raise StudyError(f"Opening {path}: it is {found}, where {kind!r} in format {_VERSION} was expected. Remove it.")
    if not table.schema.equals(_KINDS[kind]):
        raise StudyError(f"Opening {path}: its columns are not those of {kind!r}; it was edited. Remove it.")
    return table


def made_with(table: pa.Table) -> dict[str, Any]:
    """How an opened table was made, as `save_table` was told."""
    found: dict[str, Any] = _about(table).get("made", {})
    return found


def join(tables: Iterable[pa.Table]) -> pa.Table:
    """Put parts of one table together.

    Raises:
        StudyError: There are none, or two of them were made with different models, banks or settings.
    """
    parts = list(tables)
    if not parts:
        raise StudyError("There are no records to put together. Run the study first.")
    first = made_with(parts[0])
    for part in parts[1:]:
        if (other := made_with(part)) != first:
            differing = sorted(key for key in first.keys() | other.keys() if first.get(key) != other.get(key))
            raise StudyError(
                f"These records do not belong together: they differ in {', '.join(differing)} "
                f"({first.get(differing[0])!r} and {other.get(differing[0])!r}). Join records of one model, its banks "
                "and one seed; compare others with patchlens.analysis."
            )
    return pa.concat_tables(parts).unify_dictionaries().combine_chunks()


def _about(table: pa.Table) -> dict[str, Any]:
    found = (table.schema.metadata or {}).get(b"patchlens")
    return {} if found is None else dict(json.loads(found))
