"""A bank on disk, format version 1: names, manifest, vector files. Knows nothing of models or of lenses.

    bank.json                               the manifest: how the bank was made, and size and hash of each file
    contexts.parquet                        one row per context
    sentences.parquet                       the sentences that contexts stand in
    layer_08-00001-of-00003.safetensors     "vectors" [row, d_model], rows split over files, unit directions;
                                            for the 8-bit types after "scales" [row]

The files hold no time and no path of their own: the same inputs give the same bytes.
"""

import errno
import hashlib
import json
import mmap
import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property, lru_cache
from itertools import accumulate
from operator import index
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from patchlens.axes import Int
from patchlens.bank.encoding import DTYPES, Encoded, StoredType, decode, encode, row_bytes
from patchlens.errors import BankCorrupt, BankNotFound, BankVersionError, OptionError
from patchlens.provenance import JSON, Provenance
from patchlens.storage import write_json

__all__ = [
    "DTYPES",
    "VERSION",
    "Encoded",
    "Manifest",
    "Mapped",
    "Shard",
    "Table",
    "VectorFiles",
    "checked_shards",
    "decode",
    "encode",
    "read_manifest",
    "row_bytes",
    "write_table",
]

FORMAT = "patchlens bank"
VERSION = 1
MANIFEST, CONTEXTS, SENTENCES = "bank.json", "contexts.parquet", "sentences.parquet"

CONTEXT_COLUMNS = pa.schema(
    [
        *((name, pa.int32()) for name in ("token_id", "sentence", "position")),
        *((name, pa.int32()) for name in ("word_start", "word_end", "token_start", "token_end")),
        *((name, pa.string()) for name in ("word", "token")),
        ("rank", pa.uint64()),
    ]
)
"""The columns of contexts.parquet; docs/formats.md says what they mean."""

SENTENCE_COLUMNS = pa.schema([("id", pa.int32()), ("text", pa.string()), ("source", pa.string())])
"""The columns of sentences.parquet."""

SHARD_BYTES = 1 << 30
"""Largest vector file."""

HASHED_BYTES = 32 << 20
"""Of its files, smallest first, so many bytes are hashed whenever a bank is opened (some 20 ms at most). Larger files
are checked by their size and header then, and by their hash when the bank is verified."""

_GROUP_ROWS = 16_384  # of a table, compressed together: decoding one group for one row takes some 3 ms
_OPEN_FILES = 128  # at a time while writing: far below the usual limit of 1,024 for a process
_CHUNK_BYTES = 1 << 20  # of zeros, where the file system cannot set space aside
_NO_FALLOCATE = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)

_SHARD_NAME = re.compile(r"layer_(\d+)-(\d+)-of-(\d+)\.safetensors")


@dataclass(frozen=True)
class Manifest:
    """What bank.json says."""

    provenance: Provenance
    """Model, tokenizer and versions; its settings hold the selection rule, the layers and the data type."""
    corpus: dict[str, JSON]
    """sha256 of the sentences, and counts: sentences, tokens, prefixes, prefixes_run, skipped."""
    layers: tuple[int, ...]
    """Layers stored, ascending."""
    d_model: int
    """Width of a row."""
    dtype: str
    """Stored type; a key of `DTYPES`."""
    rows: int
    """Contexts, the same at every layer."""
    files: dict[str, dict[str, Any]]
    """For each other file of the folder: bytes and sha256."""

    def to_json(self) -> dict[str, JSON]:
        """The manifest as bank.json holds it, with a hash of itself."""
        body: dict[str, Any] = {"format": FORMAT, "version": VERSION} | asdict(self)
        body["layers"] = list(self.layers)
        return body | {"sha256": _digest(body)}


@dataclass(frozen=True)
class Shard:
    """One vector file of one layer."""

    path: Path
    """Where it is."""
    start: int
    """First of the bank's rows in it."""
    rows: int
    """How many."""
    offset: int
    """Bytes before the vectors."""


class VectorFiles:
    """The vector files of a bank that is being written: of full size from the start, filled in any order.

    Written to, not mapped: the pages of a mapped file count as the process's memory, and one that finds no space ends
    the process. Made by `create` or `reopen`; several processes may each have one on the same files and write
    different rows. Whatever the disk refuses comes out as an OSError.
    """

    def __init__(
        self, folder: Path, layers: Sequence[int], shard_rows: Sequence[int], d_model: int, dtype: str
    ) -> None:
        """Work out which row lies where; touches no file."""
        self._folder = folder
        self._layers = tuple(layers)
        self._stored = DTYPES[dtype]
        self._d_model = d_model
        self._starts = [0, *accumulate(shard_rows)]
        self._headers = [_header(self._stored, rows, d_model) for rows in shard_rows]
        self._row_bytes = row_bytes(d_model, dtype)
        self._open: dict[Path, int] = {}

    @classmethod
    def create(
        cls, folder: Path, layers: Sequence[int], shard_rows: Sequence[int], d_model: int, dtype: str
    ) -> "VectorFiles":
        """Lay the files out, taking all the space that they need, and flush that to the disk.

        Args:
            folder: Where, an existing folder.
            layers: One set of files each.
            shard_rows: Rows of each file of a layer, in row order.
            d_model: Width of a row.
            dtype: A key of `DTYPES`.

        Raises:
            OSError: There is no such space.
        """
        files = cls(folder, layers, shard_rows, d_model, dtype)
        for path, header, size in files._files():
            _reserve(path, header, size)
        return files

    @classmethod
    def reopen(
        cls, folder: Path, layers: Sequence[int], shard_rows: Sequence[int], d_model: int, dtype: str
    ) -> "VectorFiles":
        """Go on with files that `create` laid out with the same arguments; what was written stays.

        Raises:
            BankCorrupt: One is missing, or has another size or header.
        """
        files = cls(folder, layers, shard_rows, d_model, dtype)
        for path, header, size in files._files():
            _check_reserved(path, header, size)
        return files

    def write(self, layer: int, start: int, encoded: Encoded) -> None:
        """Store consecutive rows of a layer, from the bank's row `start`; they may lie in several files.

        Raises:
            ValueError: Not rows of these files: another layer, type or width, or out of range.
            OSError: The disk refused.
        """
        stop = start + len(encoded)
        found = (encoded.vectors.dtype, encoded.vectors.shape[1], encoded.scales is not None)
        expected = (self._stored.dtype, self._d_model, self._stored.largest is not None)
        if layer not in self._layers or found != expected or not 0 <= start <= stop <= self._starts[-1]:
            raise ValueError(
                f"Writing rows {start} to {stop} of layer {layer} as {found}: the files in {self._folder} are of "
                f"layers {self._layers}, {self._starts[-1]} rows, {expected}."
            )
        at = start
        while at < stop:
            number = bisect_right(self._starts, at) - 1
            end = min(stop, self._starts[number + 1])
            self._write(layer, number, at - self._starts[number], encoded[at - start : end - start])
            at = end

    def flush(self) -> None:
        """Return when all that was written is on the disk."""
        while self._open:
            _, descriptor = self._open.popitem()
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def close(self) -> None:
        """Let go of the files without waiting for the disk; writing again is allowed."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _files(self) -> Iterator[tuple[Path, bytes, int]]:
        """Path, header and size of each file."""
        for layer in self._layers:
            for number, header in enumerate(self._headers):
                rows = self._starts[number + 1] - self._starts[number]
                yield self._path(layer, number), header, len(header) + rows * self._row_bytes

    def _path(self, layer: int, number: int) -> Path:
        return self._folder / f"layer_{layer:02d}-{number + 1:05d}-of-{len(self._headers):05d}.safetensors"

    def _write(self, layer: int, number: int, first: int, encoded: Encoded) -> None:
        descriptor = self._descriptor(self._path(layer, number))
        offset = len(self._headers[number])
        if encoded.scales is not None:
            _pwrite(descriptor, encoded.scales, offset + first * encoded.scales.itemsize)
            offset += (self._starts[number + 1] - self._starts[number]) * encoded.scales.itemsize
        _pwrite(descriptor, encoded.vectors, offset + first * self._d_model * encoded.vectors.itemsize)

    def _descriptor(self, path: Path) -> int:
        if path not in self._open:
            if len(self._open) >= _OPEN_FILES:
                self.flush()
            self._open[path] = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        return self._open[path]


class Mapped:
    """A vector file mapped into memory: nothing is read before it is used, and `blocks` lets go of what was.

    Example:
        For rows of any size, `for start, encoded in mapped.blocks(1024)` holds some 1,024 rows at a time in memory.
    """

    def __init__(self, shard: Shard, d_model: int, dtype: str) -> None:
        """Map it.

        Raises:
            OSError: It cannot be read.
        """
        self.shard = shard
        """Which file."""
        stored = DTYPES[dtype]
        before = 0 if stored.largest is None else shard.rows * torch.float32.itemsize
        with shard.path.open("rb") as file:
            # A private copy of what is never written to: a shared mapping would need write permission on the file.
            self._pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            self._stamp = _stamp(os.fstat(file.fileno()))
        raw = torch.frombuffer(self._pages, dtype=torch.uint8)[shard.offset :]
        self.encoded = Encoded(
            vectors=raw[before:].view(stored.dtype).view(shard.rows, d_model),
            scales=None if stored.largest is None else raw[:before].view(torch.float32),
        )
        """Its rows."""
        self._first = shard.offset + before
        self._each = d_model * stored.dtype.itemsize

    def blocks(self, size: int) -> Iterator[tuple[int, Encoded]]:
        """The rows in order, as (first row of the file, at most `size` rows).

        The next ones are read while these are in use; those before leave this process's memory, though not the
        system's cache, and come back if they are used again.
        """
        for at in range(0, self.shard.rows, size):
            self._advise("MADV_WILLNEED", at + size, at + 2 * size)
            yield at, self.encoded[at : at + size]
            self._advise("MADV_DONTNEED", at, at + size)

    def taken(self, rows: Int[Tensor, " taken"]) -> Encoded:
        """Some rows of the file, copied, in the order asked for; pages that were read leave this process's memory."""
        found = self.encoded.taken(rows)
        self._advise("MADV_DONTNEED", 0, self.shard.rows)
        return found

    @property
    def changed(self) -> bool:
        """Whether the file is no longer the one that was mapped; reading it might then end the process."""
        try:
            return _stamp(os.stat(self.shard.path)) != self._stamp
        except OSError:
            return True

    def _advise(self, advice: str, start: int, stop: int) -> None:
        """Tell the system what comes next; some systems cannot be told."""
        first, last = (self._first + min(row, self.shard.rows) * self._each for row in (start, stop))
        first, last = (place - place % mmap.PAGESIZE for place in (first, last))
        if first < last and hasattr(mmap, advice):
            self._pages.madvise(getattr(mmap, advice), first, last - first)


def _stamp(about: os.stat_result) -> tuple[int, int, int]:
    return about.st_ino, about.st_size, about.st_mtime_ns


class Table:
    """A Parquet file of which single rows can be had without decoding all."""

    def __init__(self, path: Path) -> None:
        """Name the file; nothing is read yet."""
        self._path = path

    def __len__(self) -> int:
        """Rows."""
        return int(self._file.metadata.num_rows)

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Decode all rows of some columns, or of all."""
        return pq.read_table(self._path, columns=columns, memory_map=True)

    def row(self, number: int) -> dict[str, Any]:
        """One row, by column."""
        group = bisect_right(self._starts, number) - 1
        return dict(self._group(group).slice(number - self._starts[group], 1).to_pylist()[0])

    @cached_property
    def _file(self) -> pq.ParquetFile:
        return pq.ParquetFile(self._path, memory_map=True)

    @cached_property
    def _starts(self) -> list[int]:
        """First row of each row group."""
        about = self._file.metadata
        return list(accumulate((about.row_group(group).num_rows for group in range(about.num_row_groups)), initial=0))

    @cached_property
    def _group(self) -> Any:
        """The last few groups stay decoded: rows that are asked for are often neighbours."""
        return lru_cache(maxsize=4)(self._file.read_row_group)


def write_table(table: pa.Table, path: Path) -> None:
    """Write a bank's table, in row groups small enough that one row can be read without the others."""
    pq.write_table(table, path, compression="zstd", row_group_size=_GROUP_ROWS)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write bank.json."""
    write_json(folder / MANIFEST, manifest.to_json())


def read_manifest(folder: Path) -> Manifest:
    """Read and check bank.json.

    Raises:
        BankNotFound: There is none.
        BankVersionError: Written in a format that this release does not know.
        BankCorrupt: Cut short or edited.
    """
    path = folder / MANIFEST
    if not os.path.isfile(path):
        found = "it holds no bank.json" if os.path.isdir(folder) else "there is no such folder"
        raise BankNotFound(
            f"Opening the bank {folder}: {found}. Check the path, or build a bank there with 'patchlens bank build'."
        )
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BankCorrupt(
            f"Opening the bank {folder}: bank.json is not whole JSON ({error}). Copy or build the bank again."
        ) from error
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise BankCorrupt(f"Opening the bank {folder}: bank.json does not describe a bank. Check the path.")
    if body.get("version") != VERSION or str(body.get("dtype")) not in DTYPES:
        raise BankVersionError(
            f"Opening the bank {folder}: it has format version {body.get('version')!r} with vectors in "
            f"{body.get('dtype')!r}. This release reads version {VERSION} in {', '.join(DTYPES)}; "
            "update patchlens, or build the bank again."
        )
    if body.get("sha256") != _digest({key: body[key] for key in body if key != "sha256"}):
        raise BankCorrupt(
            f"Opening the bank {folder}: bank.json was edited (expected sha256 {str(body.get('sha256'))[:12]}…). "
            "Copy or build the bank again."
        )
    return _manifest(folder, body)


def checked_files(folder: Path, manifest: Manifest) -> None:
    """Compare the files with the manifest: present, of the right size, and the smallest by their hash.

    Raises:
        BankCorrupt: Names the file and both numbers.
    """
    hashed = 0
    for name, expected in sorted(manifest.files.items(), key=lambda file: (file[1]["bytes"], file[0])):
        path = folder / name
        if not os.path.isfile(path):
            raise BankCorrupt(f"Opening the bank {folder}: {name} is missing. Copy or build the bank again.")
        if (size := path.stat().st_size) != expected["bytes"]:
            raise BankCorrupt(
                f"Opening the bank {folder}: {name} has {size:,} bytes, expected {expected['bytes']:,}. "
                "It was cut short or edited; copy or build the bank again."
            )
        hashed += size
        if hashed <= HASHED_BYTES:
            check_hash(folder, name, expected["sha256"])


def checked_shards(folder: Path, manifest: Manifest) -> dict[int, list[Shard]]:
    """Find the vector files of each layer and check what their headers say.

    Raises:
        BankCorrupt: A file is missing, or its header disagrees with bank.json.
    """
    names: dict[int, list[tuple[int, int, str]]] = {}
    for name in manifest.files:
        if match := _SHARD_NAME.fullmatch(name):
            names.setdefault(int(match[1]), []).append((int(match[2]), int(match[3]), name))
    shards: dict[int, list[Shard]] = {}
    for layer in manifest.layers:
        found = sorted(names.get(layer, []))
        if not found or [number for number, _, _ in found] != list(range(1, found[0][1] + 1)):
            raise BankCorrupt(
                f"Opening the bank {folder}: bank.json lists {len(found)} vector files of layer {layer}, expected "
                f"{found[0][1] if found else 'some'}. Copy or build the bank again."
            )
        start, shards[layer] = 0, []
        for _, _, name in found:
            shards[layer].append(_read_header(folder / name, manifest, start))
            start += shards[layer][-1].rows
        if start != manifest.rows:
            raise BankCorrupt(
                f"Opening the bank {folder}: layer {layer} has {start:,} rows, expected {manifest.rows:,}. "
                "Copy or build the bank again."
            )
    return shards


def check_hash(folder: Path, name: str, expected: str) -> None:
    """Compare a file's hash with the manifest's.

    Raises:
        BankCorrupt: They differ.
    """
    if (found := sha256(folder / name)) != expected:
        raise BankCorrupt(
            f"Checking the bank {folder}: {name} was edited (sha256 {found[:12]}…, expected {expected[:12]}…). "
            "Copy or build the bank again."
        )


def describe(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and hash of each file of a folder, by name."""
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(folder.iterdir())}


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entries(stored: StoredType, rows: int, d_model: int) -> dict[str, Any]:
    """What the header of a vector file says of its tensors."""
    before = 0 if stored.largest is None else rows * torch.float32.itemsize
    end = before + rows * d_model * stored.dtype.itemsize
    vectors = {"dtype": stored.code, "shape": [rows, d_model], "data_offsets": [before, end]}
    if stored.largest is None:
        return {"vectors": vectors}
    return {"scales": {"dtype": "F32", "shape": [rows], "data_offsets": [0, before]}, "vectors": vectors}


def _header(stored: StoredType, rows: int, d_model: int) -> bytes:
    entries = _entries(stored, rows, d_model)
    text = json.dumps(entries, separators=(",", ":")).encode()
    before = 8 + len(text) + int(entries["vectors"]["data_offsets"][0])
    text += b" " * (-before % 64)  # rows start on a cache line
    return len(text).to_bytes(8, "little") + text


def _reserve(path: Path, header: bytes, size: int) -> None:
    with path.open("w+b") as file:
        _take(file.fileno(), size)
        _pwrite(file.fileno(), torch.frombuffer(bytearray(header), dtype=torch.uint8), 0)
        os.fsync(file.fileno())


def _take(descriptor: int, size: int) -> None:
    """Give an empty file its size, with all the space that it needs."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
            return
        except OSError as error:
            if error.errno not in _NO_FALLOCATE:
                raise
    zeros = torch.zeros(_CHUNK_BYTES, dtype=torch.uint8)
    for offset in range(0, size, _CHUNK_BYTES):
        _pwrite(descriptor, zeros[: size - offset], offset)


def _pwrite(descriptor: int, data: Tensor, offset: int) -> None:
    """Write a tensor's bytes at a place of a file; the system may take them in several parts."""
    left = data.cpu().reshape(-1).view(torch.uint8).numpy().data
    while len(left):
        written = os.pwrite(descriptor, left, offset)
        left, offset = left[written:], offset + written


def _check_reserved(path: Path, header: bytes, size: int) -> None:
    try:
        with path.open("rb") as file:
            found, bytes_found = file.read(len(header)), os.fstat(file.fileno()).st_size
    except FileNotFoundError as error:
        raise BankCorrupt(
            f"Resuming the bank {path.parent}: {path.name} is missing. Remove the folder and build again."
        ) from error
    if found != header or bytes_found != size:
        raise BankCorrupt(
            f"Resuming the bank {path.parent}: {path.name} has {bytes_found:,} bytes and the header "
            f"{found[8:].strip()!r}, expected {size:,} bytes and {header[8:].strip()!r}. Remove the folder and build "
            "again."
        )


def _read_header(path: Path, manifest: Manifest, start: int) -> Shard:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(min(length, 1 << 20))
        size = os.fstat(file.fileno()).st_size
    try:
        found = json.loads(text)
        found.pop("__metadata__", None)
        rows = index(found["vectors"]["shape"][0])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise BankCorrupt(
            f"Opening the bank {path.parent}: {path.name} has no safetensors header with 'vectors'. "
            "Copy or build the bank again."
        ) from error
    expected = _entries(DTYPES[manifest.dtype], rows, manifest.d_model)
    whole = 8 + length + rows * row_bytes(manifest.d_model, manifest.dtype)
    if found != expected or size != whole:
        raise BankCorrupt(
            f"Opening the bank {path.parent}: the header of {path.name} says {found} in a file of {size:,} bytes, "
            f"expected {expected} in {whole:,}. Copy or build the bank again."
        )
    return Shard(path, start, rows, 8 + length)


def _manifest(folder: Path, body: Mapping[str, Any]) -> Manifest:
    try:
        record = {field.name: body[field.name] for field in fields(Manifest)}
        return Manifest(
            **record | {"provenance": Provenance.from_json(body["provenance"]), "layers": tuple(body["layers"])}
        )
    except (KeyError, TypeError, OptionError) as error:
        raise BankCorrupt(
            f"Opening the bank {folder}: bank.json is incomplete ({error}). Copy or build the bank again."
        ) from error


def _digest(body: Mapping[str, JSON]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
