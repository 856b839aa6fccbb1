"""A bank on disk, format version 1: names, manifest, vector files. Knows nothing of models or of lenses.

    bank.json                               the manifest: how the bank was made, and size and hash of each file
    contexts.parquet                        one row per context
    sentences.parquet                       the sentences that contexts stand in
    layer_08-00001-of-00003.safetensors     "vectors" [row, d_model], rows split over files, unit directions

The files hold no time and no path of their own: the same inputs give the same bytes.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patchlens.axes import Float
from patchlens.errors import BankCorrupt, BankNotFound, BankVersionError, OptionError
from patchlens.provenance import JSON, Provenance
from patchlens.storage import write_json

__all__ = ["DTYPES", "VERSION", "Manifest", "Shard", "VectorFiles", "checked_shards", "map_vectors", "read_manifest"]

FORMAT = "patchlens bank"
VERSION = 1
MANIFEST, CONTEXTS, SENTENCES = "bank.json", "contexts.parquet", "sentences.parquet"

DTYPES: dict[str, tuple[torch.dtype, str]] = {
    "float16": (torch.float16, "F16"),
    "bfloat16": (torch.bfloat16, "BF16"),
    "float32": (torch.float32, "F32"),
}
"""What vectors are stored as, by the name in bank.json, with safetensors' name for it."""

SHARD_BYTES = 1 << 30
"""Largest vector file."""

HASHED_BYTES = 96 << 20
"""Of its files, smallest first, so many bytes are hashed whenever a bank is opened (some 0.1 s at most). Larger files
are checked by their size and header then, and by their hash when the bank is verified."""

_SHARD_NAME = re.compile(r"layer_(\d+)-(\d+)-of-(\d+)\.safetensors")


@dataclass(frozen=True)
class Manifest:
    """What bank.json says."""

    provenance: Provenance
    """Model, tokenizer and versions; its settings hold the selection rule, the layers and the data type."""
    corpus: dict[str, JSON]
    """sha256 of the sentences, and counts: sentences, tokens, prefixes, positions_run."""
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
    """The vector files of a bank that is being written: full size from the start, filled in any order."""

    def __init__(
        self,
        folder: Path,
        layers: Sequence[int],
        rows: int,
        d_model: int,
        dtype: str,
        shard_bytes: int,
    ) -> None:
        """Lay the files out, taking all the space that they need before any work is done.

        Raises:
            OSError: There is no such space.
        """
        self._dtype, code = DTYPES[dtype]
        row_bytes = d_model * self._dtype.itemsize
        self._rows_per_shard = max(1, shard_bytes // row_bytes)
        self._files: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        shards = -(-rows // self._rows_per_shard)
        for layer in layers:
            for number in range(shards):
                count = min(self._rows_per_shard, rows - number * self._rows_per_shard)
                path = folder / f"layer_{layer:02d}-{number + 1:05d}-of-{shards:05d}.safetensors"
                header = _header(code, count, d_model)
                _reserve(path, header, count * row_bytes)
                self._files[layer].append(map_vectors(path, len(header), count, d_model, self._dtype, write=True))

    def write(self, layer: int, rows: Tensor, vectors: Float[Tensor, "row d_model"]) -> None:
        """Store vectors as some of a layer's rows."""
        stored = vectors.to(self._dtype)
        shard = rows // self._rows_per_shard
        for number in sorted(set(shard.tolist())):
            here = shard == number
            self._files[layer][number][rows[here] - number * self._rows_per_shard] = stored[here]


def map_vectors(
    path: Path, offset: int, rows: int, d_model: int, dtype: torch.dtype, *, write: bool = False
) -> Float[Tensor, "row d_model"]:
    """Map a vector file into memory; nothing is read before it is used."""
    size = offset + rows * d_model * dtype.itemsize
    # Not shared for reading: a mapping that may be written to would need write permission on the file.
    raw = torch.from_file(str(path), shared=write, size=size, dtype=torch.uint8)
    return raw[offset:].view(dtype).view(rows, d_model)


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
    if body.get("version") != VERSION or body.get("dtype") not in DTYPES:
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
    shards: dict[int, list[Shard]] = {}
    for layer in manifest.layers:
        found = sorted(
            (int(match[2]), int(match[3]), name)
            for name in manifest.files
            if (match := _SHARD_NAME.fullmatch(name)) and int(match[1]) == layer
        )
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


def blocks(
    tensors: Sequence[tuple[int, Float[Tensor, "_row d_model"]]], size: int
) -> Iterator[tuple[int, Float[Tensor, "_block d_model"]]]:
    """Cut tensors, each with the number of its first row, into blocks of at most `size` rows without copying."""
    for start, tensor in tensors:
        for at in range(0, len(tensor), size):
            yield start + at, tensor[at : at + size]


def _header(code: str, rows: int, d_model: int) -> bytes:
    size = rows * d_model * {"F16": 2, "BF16": 2, "F32": 4}[code]
    entry = {"vectors": {"dtype": code, "shape": [rows, d_model], "data_offsets": [0, size]}}
    text = json.dumps(entry, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)  # so that rows start on a cache line
    return len(text).to_bytes(8, "little") + text


def _reserve(path: Path, header: bytes, size: int) -> None:
    # Space is taken now: a page of a sparse mapped file that finds none later would end the process (SIGBUS).
    with path.open("wb") as file:
        file.write(header)
        file.flush()
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, len(header) + size)
        else:
            for _ in range(0, size, 1 << 20):
                file.write(bytes(1 << 20))
            file.truncate(len(header) + size)


def _read_header(path: Path, manifest: Manifest, start: int) -> Shard:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(min(length, 1 << 20))
    try:
        entry = json.loads(text)["vectors"]
        rows, d_model = entry["shape"]
        found = {"dtype": entry["dtype"], "d_model": d_model, "bytes": 8 + length + entry["data_offsets"][1]}
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise BankCorrupt(
            f"Opening the bank {path.parent}: {path.name} has no safetensors header with 'vectors'. "
            "Copy or build the bank again."
        ) from error
    dtype, code = DTYPES[manifest.dtype]
    expected = {
        "dtype": code,
        "d_model": manifest.d_model,
        "bytes": 8 + length + rows * manifest.d_model * dtype.itemsize,
    }
    size = path.stat().st_size
    if found != expected or size != expected["bytes"]:
        raise BankCorrupt(
            f"Opening the bank {path.parent}: the header of {path.name} says {found} in a file of {size:,} bytes, "
            f"expected {expected}. Copy or build the bank again."
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
