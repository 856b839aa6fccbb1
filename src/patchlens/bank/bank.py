"""An opened bank: vectors mapped from disk, contexts and sentences read when asked for. Runs no model.

The one exception is the first use of an embedded model's bank, which is then built into the cache.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from patchlens import __version__
from patchlens.axes import Float
from patchlens.bank import format as layout
from patchlens.bank.format import DTYPES, Manifest, Shard
from patchlens.errors import BankCorrupt, BankError, BankMismatch, BankNotFound, OptionError, PatchlensError
from patchlens.models.embedded import Embedded, embedded, embedded_names
from patchlens.progress import Report, silent
from patchlens.provenance import JSON, Provenance
from patchlens.storage import cache_folder, readable

__all__ = ["Bank", "Context", "open_bank"]

_BLOCK_BYTES = 64 << 20

# How far rounding to the stored type can move the length of a unit vector.
_LENGTH_TOLERANCE = {"float16": 2e-3, "bfloat16": 1e-2, "float32": 1e-5}


@dataclass(frozen=True)
class Context:
    """One token in one sentence. The model saw the sentence only up to `prefix_end`."""

    row: int
    """Row of the bank."""
    token: str
    """The vocabulary's piece, as the tokenizer spells it."""
    word: str
    """The whole word that the token stands in, which may go on after what the model saw."""
    sentence: str
    """The whole sentence."""
    source: str
    """Where the sentence comes from: "file.txt:12"."""
    position: int
    """Position in the token sequence, counted from 0, the tokenizer's special tokens included."""
    word_span: tuple[int, int]
    """First and one past the last character of the word in the sentence."""
    prefix_end: int
    """Characters of the sentence that the model saw."""


@dataclass(frozen=True, eq=False)
class Bank:
    """Contextual embeddings of many contexts at several layers; made by `build_bank`, opened by `open_bank`."""

    name: str
    """The embedded model's name, or the folder's."""
    folder: Path
    """Where it is."""
    manifest: Manifest
    """What bank.json says."""
    shards: dict[int, list[tuple[Shard, Tensor]]]
    """The mapped vector files of each layer, in row order."""

    def __len__(self) -> int:
        """Rows: contexts, the same at every layer."""
        return self.manifest.rows

    def __repr__(self) -> str:
        return (
            f"Bank({self.name!r}: {len(self):,} contexts × layers {', '.join(map(str, self.layers))} × "
            f"{self.d_model} {self.dtype}, from {self.provenance.model})"
        )

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers stored, ascending."""
        return self.manifest.layers

    @property
    def d_model(self) -> int:
        """Width of a row."""
        return self.manifest.d_model

    @property
    def dtype(self) -> str:
        """Stored type: "float16", "bfloat16" or "float32"."""
        return self.manifest.dtype

    @property
    def provenance(self) -> Provenance:
        """How the bank was made."""
        return self.manifest.provenance

    @cached_property
    def contexts(self) -> pa.Table:
        """One row per context: token_id, sentence, position, spans in characters, word, token."""
        return pq.read_table(self.folder / layout.CONTEXTS, memory_map=True)

    @cached_property
    def sentences(self) -> pa.Table:
        """The sentences that contexts stand in: id (its row number), text, source."""
        return pq.read_table(self.folder / layout.SENTENCES, memory_map=True)

    def vectors(self, layer: int) -> Float[Tensor, "row d_model"]:
        """All rows of a layer, of unit length up to the stored type.

        Mapped from disk when the layer is one file (up to 1 GiB), else copied into one tensor; `blocks`
        never copies.

        Raises:
            OptionError: The bank lacks this layer.
        """
        parts = [tensor for _, tensor in self._of(layer)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def blocks(self, layer: int, size: int) -> Iterator[tuple[int, Float[Tensor, "_block d_model"]]]:
        """The rows of a layer in order, as (first row, at most `size` rows), mapped from disk.

        Raises:
            OptionError: The bank lacks this layer.
        """
        return layout.blocks([(shard.start, tensor) for shard, tensor in self._of(layer)], size)

    def context(self, row: int) -> Context:
        """The context of a row.

        Raises:
            OptionError: There is no such row.
        """
        if not 0 <= row < len(self):
            raise OptionError(f"The bank {self.name} has no row {row}: its rows are 0 to {len(self) - 1:,}.")
        found = self.contexts.slice(row, 1).to_pylist()[0]
        return Context(
            row=row,
            token=found["token"],
            word=found["word"],
            sentence=self.sentences["text"][found["sentence"]].as_py(),
            source=self.sentences["source"][found["sentence"]].as_py(),
            position=found["position"],
            word_span=(found["word_start"], found["word_end"]),
            prefix_end=found["token_end"],
        )

    def info(self) -> dict[str, JSON]:
        """What the bank is, for people and programs: plain JSON values."""
        made = self.provenance
        return {
            "name": self.name,
            "folder": str(self.folder),
            "format_version": layout.VERSION,
            "bytes": sum(file["bytes"] for file in self.manifest.files.values()),
            "rows": len(self),
            "sentences": len(self.sentences),
            "words": len(self.contexts["word"].unique()),
            "layers": list(self.layers),
            "d_model": self.d_model,
            "dtype": self.dtype,
            "model": made.model,
            "revision": made.revision,
            "fingerprint": made.fingerprint,
            "tokenizer": made.tokenizer,
            "versions": dict(made.versions),
            "settings": dict(made.settings),
            "corpus": dict(self.manifest.corpus),
        }

    def check(
        self, fingerprint: str, d_model: int, *, allow_other_model: bool = False, model: str = "another model"
    ) -> None:
        """Make sure that hidden states may be looked up here.

        Args:
            fingerprint: Of the language model that the states come from.
            d_model: Their width.
            allow_other_model: Accept another model of the same width, when comparing models is the point.
            model: The name of the states' model, for the message.

        Raises:
            BankMismatch: Another width, or another model.
        """
        if d_model != self.d_model:
            raise BankMismatch(
                f"The bank {self.name} holds {self.d_model}-dimensional rows from {self.provenance.model}; the hidden "
                f"states are {d_model}-dimensional, from {model}. Open a bank of that model, or build one with "
                "'patchlens bank build'."
            )
        if fingerprint != self.provenance.fingerprint and not allow_other_model:
            raise BankMismatch(
                f"The bank {self.name} was built with {self.provenance.model} (weights "
                f"{self.provenance.fingerprint[:12]}…); the hidden states come from {model} (weights "
                f"{fingerprint[:12]}…), which is another model or was loaded in float16. Build a bank of that model "
                "with 'patchlens bank build', or say allow_other_model if comparing the two is the point."
            )

    def verify(self, report: Report = silent) -> None:
        """Read everything: hashes of all files, counts, and that all rows are finite and of unit length.

        Args:
            report: Called with stage "verify" and bytes done.

        Raises:
            BankCorrupt: Names the file or the row, and both numbers.
        """
        total = 2 * sum(file["bytes"] for file in self.manifest.files.values())
        done = 0
        for name, expected in self.manifest.files.items():
            layout.check_hash(self.folder, name, expected["sha256"])
            done += expected["bytes"]
            report("verify", done, total)
        self._verify_tables()
        for layer in self.layers:
            for start, block in self.blocks(layer, max(1, _BLOCK_BYTES // (4 * self.d_model))):
                self._verify_rows(layer, start, block)
                done += block.numel() * block.element_size()
                report("verify", done, total)
        report("verify", total, total)

    def _of(self, layer: int) -> list[tuple[Shard, Tensor]]:
        if layer not in self.shards:
            raise OptionError(
                f"The bank {self.name} holds no layer {layer}. It holds {', '.join(map(str, self.layers))}."
            )
        return self.shards[layer]

    def _verify_tables(self) -> None:
        if len(self.contexts) != len(self):
            raise BankCorrupt(
                f"Checking the bank {self.folder}: contexts.parquet has {len(self.contexts):,} rows, "
                f"expected {len(self):,}. Build the bank again."
            )
        if (last := max(self.contexts["sentence"].to_pylist())) >= len(self.sentences):
            raise BankCorrupt(
                f"Checking the bank {self.folder}: contexts.parquet names sentence {last:,}, but sentences.parquet "
                f"has {len(self.sentences):,} rows. Build the bank again."
            )

    def _verify_rows(self, layer: int, start: int, block: Float[Tensor, "_block d_model"]) -> None:
        lengths = torch.linalg.vector_norm(block.float(), dim=-1)
        wrong = ~((lengths - 1).abs() <= _LENGTH_TOLERANCE[self.dtype])  # so that NaN is wrong too
        if wrong.any():
            at = int(wrong.nonzero()[0])
            raise BankCorrupt(
                f"Checking the bank {self.folder}: row {start + at:,} at layer {layer} has length "
                f"{float(lengths[at]):.4g}, expected 1 within {_LENGTH_TOLERANCE[self.dtype]:g}. "
                "Build the bank again."
            )


def open_bank(bank: str | Path | Bank, *, report: Report = silent) -> Bank:
    """Open a bank: in some 0.1 s at most, whatever its size.

    Checks the manifest, that all files are there with the right sizes and headers, and the hashes of a small bank's
    files; `Bank.verify` reads everything.

    Args:
        bank: A bank's folder, the name of an embedded model, or a bank that is open already. An embedded model's
            bank is built into the cache on first use.
        report: Progress of that build.

    Raises:
        BankNotFound: No such folder or embedded model.
        BankCorrupt: A file is missing, cut short or edited.
        BankVersionError: Written in a format that this release does not know.
    """
    if isinstance(bank, Bank):
        return bank
    if isinstance(bank, str) and (member := embedded(bank)) is not None:
        return _open_embedded(member, report)
    folder = Path(bank)
    if not os.path.isdir(folder):  # where Path.is_dir would raise: a name too long, a parent that may not be entered
        raise BankNotFound(
            f"Opening the bank {folder}: there is no such folder, and no embedded model of that name. Embedded: "
            f"{', '.join(embedded_names()) or 'none'}. Build a bank with 'patchlens bank build'."
        )
    with readable(folder):
        return _open_folder(folder, folder.resolve().name)


def _open_folder(folder: Path, name: str) -> Bank:
    manifest = layout.read_manifest(folder)
    layout.checked_files(folder, manifest)
    shards = layout.checked_shards(folder, manifest)
    dtype, _ = DTYPES[manifest.dtype]
    return Bank(
        name=name,
        folder=folder,
        manifest=manifest,
        shards={
            layer: [
                (shard, layout.map_vectors(shard.path, shard.offset, shard.rows, manifest.d_model, dtype))
                for shard in found
            ]
            for layer, found in shards.items()
        },
    )


def _open_embedded(member: Embedded, report: Report) -> Bank:
    folder = cache_folder() / "banks" / f"{member.name}-{_fingerprint(member)}"
    overwrite = os.path.exists(folder)
    if overwrite:
        try:
            return _open_folder(folder, member.name)
        except BankError:  # the cache is ours: a damaged bank in it is made again
            pass
    from patchlens.bank.build import build_bank

    options = {**member.bank, "overwrite": overwrite}
    try:
        build_bank(member.name, member.corpus(), folder, report=report, **options)
    except PatchlensError:
        # Another process that built the same bank was first; its bytes are the same.
        if overwrite or not os.path.isfile(folder / layout.MANIFEST):
            raise
    return _open_folder(folder, member.name)


def _fingerprint(member: Embedded) -> str:
    """Changes whenever the bank would: with the model's files, the options, the release or the format."""
    digest = hashlib.sha256()
    for path in sorted(member.folder.iterdir()):
        if path.suffix in (".json", ".safetensors", ".jinja"):
            digest.update(f"{path.name} {layout.sha256(path)}\n".encode())
    digest.update(json.dumps([member.bank, __version__, layout.VERSION], sort_keys=True).encode())
    return digest.hexdigest()[:16]
