"""An opened bank: vectors mapped from disk, contexts and sentences read when asked for. Runs no model.

The one exception is the first use of an embedded model's bank, which is then built into the cache.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from patchlens import __version__
from patchlens.axes import Bool, Int, Num
from patchlens.bank import format as layout
from patchlens.bank import statistics
from patchlens.bank.encoding import Encoded, decode, empty
from patchlens.bank.format import Manifest, Mapped, Table
from patchlens.bank.statistics import Statistics
from patchlens.errors import (
    BankBusy,
    BankCorrupt,
    BankError,
    BankMismatch,
    BankNotFound,
    BuildMismatch,
    HubError,
    OptionError,
    PatchlensError,
    StorageError,
)
from patchlens.models.embedded import Embedded, embedded, embedded_names
from patchlens.progress import Report, silent
from patchlens.provenance import JSON, Provenance
from patchlens.storage import cache_folder, readable

if TYPE_CHECKING:
    import patchlens.models.model

__all__ = ["Bank", "Context", "open_bank"]

_WAIT_SECONDS = 0.5
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")  # "owner/name"
_BLOCK_ROWS = 4096  # copied at a time: 128 MiB in float32 at a width of 8,192


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
    shards: dict[int, list[Mapped]]
    """The vector files of each layer, in row order."""

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
        """Stored type: a key of `DTYPES` in `bank.encoding`."""
        return self.manifest.dtype

    @property
    def provenance(self) -> Provenance:
        """How the bank was made."""
        return self.manifest.provenance

    @cached_property
    def contexts(self) -> pa.Table:
        """One row per context: token_id, sentence, position, spans in characters, word, token, rank.

        Decoded into memory as a whole on first use: some 60 bytes and 0.4 µs a row. `context` decodes a few rows.
        """
        return self._contexts.read()

    @cached_property
    def sentences(self) -> pa.Table:
        """The sentences that contexts stand in: id (its row number), text, source.

        Decoded into memory as a whole on first use: the size of the text and some 20 bytes a sentence.
        """
        return self._sentences.read()

    def vectors(self, layer: int, unit: bool = False) -> Num[Tensor, "row d_model"]:
        """All rows of a layer.

        Mapped from disk when the layer is one file, else copied into one tensor; `blocks` never copies, and holds
        one block in memory at a time.

        Args:
            layer: One that the bank holds.
            unit: A float32 copy of exactly unit length, as far as float32 goes, instead of what is stored.

        Returns:
            In the stored type, of unit length up to its rounding; in the 8-bit types each row up to its scale, see
            `encoded`. With `unit` float32: 4 · rows · d_model bytes of memory.

        Raises:
            OptionError: The bank lacks this layer.
        """
        if unit:
            rows = torch.empty(len(self), self.d_model)
            for start, encoded in self.encoded(layer, _BLOCK_ROWS):
                rows[start : start + len(encoded)] = decode(encoded)
            return rows
        parts = [mapped.encoded.vectors for mapped in self._of(layer)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def blocks(self, layer: int, size: int) -> Iterator[tuple[int, Num[Tensor, "_block d_model"]]]:
        """The rows of a layer in order, as (first row, at most `size` rows), mapped from disk.

        In the stored type; the 8-bit types without their scales, which change no direction.

        Raises:
            OptionError: The bank lacks this layer.
        """
        return ((start, encoded.vectors) for start, encoded in self.encoded(layer, size))

    def encoded(self, layer: int, size: int) -> Iterator[tuple[int, Encoded]]:
        """The rows of a layer as they are stored, scales included: (first row, at most `size` rows), mapped from disk.

        Raises:
            OptionError: The bank lacks this layer.
        """
        found = self._of(layer)  # now: a generator would refuse only when it is first asked
        return ((mapped.shard.start + at, encoded) for mapped in found for at, encoded in mapped.blocks(size))

    def take(self, layer: int, rows: Int[Tensor, " taken"]) -> Encoded:
        """Some rows of a layer as they are stored, in the order asked for; only they are read.

        Raises:
            OptionError: The bank lacks this layer or one of these rows.
        """
        found = self._of(layer)
        if ((rows < 0) | (rows >= len(self))).any():
            raise OptionError(
                f"Taking rows {int(rows.min())} to {int(rows.max())} of the bank {self.name}: its rows are 0 to "
                f"{len(self) - 1:,}."
            )
        taken = empty(len(rows), self.d_model, self.dtype)
        for mapped in found:
            first = mapped.shard.start
            here = ((rows >= first) & (rows < first + mapped.shard.rows)).nonzero().flatten()
            some = mapped.taken(rows[here] - first)
            taken.vectors.view(torch.uint8)[here] = some.vectors.view(torch.uint8)
            if taken.scales is not None and some.scales is not None:
                taken.scales[here] = some.scales
        return taken

    def gather(self, layer: int, rows: Int[Tensor, " taken"]) -> Num[Tensor, "taken d_model"]:
        """The vectors of `take` alone; the 8-bit types without their scales, which change no direction."""
        return self.take(layer, rows).vectors

    def where(
        self,
        *,
        words: Iterable[str] | None = None,
        sources: str | None = None,
        text: str | None = None,
    ) -> Bool[Tensor, " row"]:
        """Which rows fit all that is asked, for a search among them alone.

        Args:
            words: Their word is one of these, whatever its case.
            sources: The source of their sentence fits this pattern, in which * stands for anything: "news.txt:*".
            text: Their sentence contains this, whatever its case.

        Returns:
            True for rows that fit.
        """
        fits = pa.array(np.ones(len(self), dtype=bool))
        if words is not None:
            wanted = pa.array([word.casefold() for word in words], pa.string())
            fits = pc.and_(fits, pc.is_in(self.labels("word"), value_set=wanted))
        sentences = []
        if sources is not None:
            pattern = "".join(".*" if part == "*" else re.escape(part) for part in re.split(r"(\*)", sources))
            sentences.append(pc.match_substring_regex(self.sentences["source"], f"(?s)^{pattern}$"))
        if text is not None:
            sentences.append(pc.match_substring(self.sentences["text"], text, ignore_case=True))
        for found in sentences:
            fits = pc.and_(fits, one_array(found).take(one_array(self.contexts["sentence"])))
        return torch.from_numpy(np.array(fits))

    def labels(self, kind: str) -> pa.Array:
        """One string a row: its "word", in lower case, or its "sentence"."""
        if kind == "sentence":
            return (
                one_array(self.sentences["text"]).dictionary_encode().take(self._column("sentence")).cast(pa.string())
            )
        words = self._column("word").dictionary_encode()
        lower = pa.array([word.casefold() for word in words.dictionary.to_pylist()], pa.string())
        return lower.take(words.indices)

    def describe(self, rows: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> pa.Table:
        """Contexts with their sentences, in the order asked for: the columns of `Context`, without the row."""
        distinct, codes = np.unique(rows, return_inverse=True)
        back = pa.array(codes.reshape(-1))
        contexts = self.contexts.take(pa.array(distinct))
        stands_in = self.sentences.take(contexts["sentence"])
        columns = {
            "word": contexts["word"],
            "sentence": stands_in["text"],
            "source": stands_in["source"],
            "token": contexts["token"],
            "position": contexts["position"],
            "word_start": contexts["word_start"],
            "word_end": contexts["word_end"],
            "prefix_end": contexts["token_end"],
        }
        return pa.table({name: _spread(one_array(column), back) for name, column in columns.items()})

    def context(self, row: int) -> Context:
        """The context of a row; of a large bank only a few thousand rows of the tables are decoded for it.

        Raises:
            OptionError: There is no such row.
        """
        if not 0 <= row < len(self):
            raise OptionError(f"The bank {self.name} has no row {row}: its rows are 0 to {len(self) - 1:,}.")
        found = self._contexts.row(row)
        stands_in = self._sentences.row(found["sentence"])
        return Context(
            row=row,
            token=found["token"],
            word=found["word"],
            sentence=stands_in["text"],
            source=stands_in["source"],
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
            "sentences": len(self._sentences),
            "words": len(self._contexts.read(["word"])["word"].unique()),
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
            fingerprint: Of the language model that the states come from; empty where it is not known, as of states from
                elsewhere, and then the width alone is compared.
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
        if fingerprint not in ("", self.provenance.fingerprint) and not allow_other_model:
            raise BankMismatch(
                f"The bank {self.name} was built with {self.provenance.model} (weights "
                f"{self.provenance.fingerprint[:12]}…); the hidden states come from {model} (weights "
                f"{fingerprint[:12]}…), which is another model or was loaded in float16. Build a bank of that model "
                "with 'patchlens bank build', or say allow_other_model if comparing the two is the point."
            )

    def statistics(self, report: Report = silent) -> Statistics:
        """Mean and spread of each dimension at each layer, all rows taken at length 1.

        Measured on first use and kept beside the bank, where its folder may be written to.

        Args:
            report: Called with stage "statistics" and rows done, when they are measured.

        Cost:
            Every vector is read once, the first time.
        """
        of = str(self.manifest.to_json()["sha256"])
        found = statistics.load(self.folder, of)
        if found is None:
            found = statistics.measure(self, report)
            with suppress(StorageError):  # read-only banks are measured each time
                statistics.store(found, self.folder, of)
        return found

    def check_unchanged(self) -> None:
        """Make sure that the vector files are those that were opened.

        Raises:
            BankCorrupt: One was written to, replaced or removed.
        """
        for mapped in (mapped for files in self.shards.values() for mapped in files):
            if mapped.changed:
                raise BankCorrupt(
                    f"Searching the bank {self.folder}: {mapped.shard.path.name} was changed or removed while the bank "
                    "was open, so what was found would be wrong. Open the bank again; if that fails, copy or build it."
                )

    def verify(self, report: Report = silent, model: "patchlens.models.model.Model | None" = None) -> None:
        """Read everything: hashes of all files, counts, spans and ids, no row twice, all rows of unit length.

        Args:
            report: Called with stage "verify" and bytes done; with a model then with stage "recompute" and rows done.
            model: The model that the bank was built with: 64 rows, always the same ones, are computed again, each from
                its sentence alone, and compared.

        Raises:
            BankCorrupt: Names the file or the row, what was found and what was expected.
            BankMismatch: The model is another one than the bank's.

        Cost:
            Every byte is read twice; the tables are decoded into memory.
        """
        from patchlens.bank.verify import verify

        verify(self, report, model)

    @cached_property
    def _contexts(self) -> Table:
        return Table(self.folder / layout.CONTEXTS)

    @cached_property
    def _sentences(self) -> Table:
        return Table(self.folder / layout.SENTENCES)

    def _column(self, name: str) -> pa.Array:
        """A column of the contexts."""
        return one_array(self._contexts.read([name])[name])

    def _of(self, layer: int) -> list[Mapped]:
        if layer not in self.shards:
            raise OptionError(
                f"The bank {self.name} holds no layer {layer}. It holds {', '.join(map(str, self.layers))}."
            )
        return self.shards[layer]


def one_array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column in one piece."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return array.chunk(0) if isinstance(array, pa.ChunkedArray) else array


def _spread(column: pa.Array, back: pa.Array) -> pa.Array:
    """Entries by number; texts as a dictionary, each stored once."""
    return (column.dictionary_encode() if pa.types.is_string(column.type) else column).take(back)


def open_bank(bank: str | Path | Bank, *, report: Report = silent) -> Bank:
    """Open a bank: in some 30 ms whatever its size, and 0.05 ms more for each of its files.

    Checks the manifest, that all files are there with the right sizes and headers, and the hashes of a small bank's
    files, which takes most of the time; `Bank.verify` reads everything.

    Args:
        bank: A bank's folder, the name of an embedded model, "owner/name" on the Hugging Face Hub, or a bank that is
            open already. An embedded model's bank is built into the cache on first use, one from the Hub is
            downloaded into it, all layers; see `pull_bank` for some of them.
        report: Progress of that build, and stage "wait" while another process builds the same bank.

    Raises:
        BankNotFound: No such folder or embedded model.
        BankCorrupt: A file is missing, cut short or edited.
        BankVersionError: Written in a format that this release does not know.
        HubError: It is no folder here, and the Hub could not be asked.
    """
    if isinstance(bank, Bank):
        return bank
    if isinstance(bank, str) and (member := embedded(bank)) is not None:
        return _open_embedded(member, report)
    folder = Path(bank)
    if not os.path.exists(folder) and isinstance(bank, str) and _HUB_ID.fullmatch(bank):
        return _from_hub(bank, report)
    if not os.path.isdir(folder):  # where Path.is_dir would raise: a name too long, a parent that may not be entered
        raise BankNotFound(
            f"Opening the bank {folder}: there is no such folder, and no embedded model of that name. Embedded: "
            f"{', '.join(embedded_names()) or 'none'}. Build a bank with 'patchlens bank build'."
        )
    with readable(folder):
        return _open_folder(folder, folder.resolve().name)


def _from_hub(repo_id: str, report: Report) -> Bank:
    from patchlens.bank.hub import pull_bank

    try:
        return pull_bank(repo_id, report=report)
    except (BankNotFound, HubError) as error:
        raise type(error)(f"Opening the bank {repo_id}: there is no such folder here. {error}") from error


def _open_folder(folder: Path, name: str) -> Bank:
    manifest = layout.read_manifest(folder)
    layout.checked_files(folder, manifest)
    shards = layout.checked_shards(folder, manifest)
    return Bank(
        name=name,
        folder=folder,
        manifest=manifest,
        shards={
            layer: [Mapped(shard, manifest.d_model, manifest.dtype) for shard in found]
            for layer, found in shards.items()
        },
    )


def _open_embedded(member: Embedded, report: Report) -> Bank:
    folder = cache_folder() / "banks" / f"{member.name}-{_fingerprint(member)}"
    while True:
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
            return _open_folder(folder, member.name)
        except BankBusy:  # another process builds the same bytes; should it die, we go on with its work
            report("wait", 0, 1)
            time.sleep(_WAIT_SECONDS)
        except BuildMismatch:  # begun with another release of torch, say; the cache is ours
            shutil.rmtree(folder.with_name(f".{folder.name}.build"))
        except PatchlensError:
            # Another process that built the same bank was first.
            if overwrite or not os.path.isfile(folder / layout.MANIFEST):
                raise


def _fingerprint(member: Embedded) -> str:
    """Changes whenever the bank would: with the model's files, the options, the release or the format."""
    digest = hashlib.sha256()
    for path in sorted(member.folder.iterdir()):
        if path.suffix in (".json", ".safetensors", ".jinja"):
            digest.update(f"{path.name} {layout.sha256(path)}\n".encode())
    digest.update(json.dumps([member.bank, __version__, layout.VERSION], sort_keys=True).encode())
    return digest.hexdigest()[:16]
