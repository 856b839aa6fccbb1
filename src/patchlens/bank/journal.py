"""What an unfinished build remembers: what it makes, how the work is cut, and how far each shard is.

    .name.build/      beside the bank to be; knows nothing of models
      lock            held by the process that leads
      build.json      everything that decides the bytes; there once the plan stands
      plan/           the plan; its tables become the bank's at the end
      bank/           the bank to be, its vector files of full size from the start
      journal/00001   of one shard, a line a step; locked by who works on it; there once the vector files are

A shard is a range of runs and its rows: file number s of every layer. It is what workers share out, and a process that
dies gives its shard back. A step is some batches of a shard that are on the disk: what was written after the last line
of a journal is run again, to the same bytes.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from patchlens.bank.format import Manifest
from patchlens.bank.pack import Packing
from patchlens.errors import BankCorrupt, OptionError
from patchlens.provenance import JSON, Provenance
from patchlens.storage import take_lock, write_json

__all__ = [
    "Journal",
    "Record",
    "Step",
    "claimed",
    "complete",
    "journal_path",
    "last_step",
    "read_record",
    "write_record",
]

RECORD, PLAN, BANK, JOURNALS = "build.json", "plan", "bank", "journal"

_VERSION = 1


@dataclass(frozen=True)
class Record:
    """What build.json says."""

    bank: Manifest
    """The bank to be, without its files."""
    run_cuts: tuple[int, ...]
    """Where each shard starts among the plan's runs, and at the end where the last one ends."""
    row_cuts: tuple[int, ...]
    """The same among the bank's rows."""
    packing: Packing
    """How runs are put into forward passes."""
    device: str
    """What computes: "cpu", "cuda"."""
    threads: int | None
    """Of each worker on a CPU: float32 sums there come out otherwise with another number."""
    loading: dict[str, JSON] | None
    """How workers load the model; None for one that was made in memory."""

    def __len__(self) -> int:
        """Shards."""
        return len(self.run_cuts) - 1

    @property
    def shard_rows(self) -> list[int]:
        """Rows of each shard."""
        return [stop - start for start, stop in pairwise(self.row_cuts)]

    def runs_of(self, shard: int) -> range:
        """Runs of a shard."""
        return range(self.run_cuts[shard], self.run_cuts[shard + 1])


@dataclass(frozen=True)
class Step:
    """How far a shard is."""

    batches: int = 0
    """Its first batches that are on the disk."""
    positions: int = 0
    """Their token positions."""
    files: dict[str, dict[str, Any]] | None = None
    """Size and hash of each of its vector files; None until it is complete."""


def write_record(folder: Path, record: Record) -> None:
    """Write build.json."""
    body: dict[str, Any] = {"format": "patchlens build", "version": _VERSION} | asdict(record)
    write_json(folder / RECORD, body | {"bank": record.bank.to_json()})


def read_record(folder: Path) -> Record | None:
    """Read build.json; None if there is none.

    Raises:
        BankCorrupt: It was edited, or written by another release.
    """
    try:
        body = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if body.pop("format") != "patchlens build" or body.pop("version") != _VERSION:
            raise ValueError("another version")
        bank = {name: value for name, value in body["bank"].items() if name not in ("format", "version", "sha256")}
        bank |= {"provenance": Provenance.from_json(bank["provenance"]), "layers": tuple(bank["layers"])}
        cuts = {name: tuple(body[name]) for name in ("run_cuts", "row_cuts")}
        return Record(**body | cuts | {"bank": Manifest(**bank), "packing": Packing(**body["packing"])})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, OptionError) as error:
        raise BankCorrupt(
            f"Going on with the build in {folder}: its {RECORD} was edited, or written by another release ({error}). "
            "Remove that folder to start anew."
        ) from error


def journal_path(folder: Path, shard: int) -> Path:
    """Where the journal of a shard is."""
    return folder / JOURNALS / f"{shard + 1:05d}"


def last_step(folder: Path, shard: int) -> Step:
    """How far a shard is, by its journal."""
    return _read(journal_path(folder, shard).read_bytes())[0]


def complete(folder: Path, record: Record) -> bool:
    """Whether all shards are complete."""
    return all(last_step(folder, shard).files is not None for shard in range(len(record)))


class Journal:
    """The journal of a shard that this process works on."""

    def __init__(self, handle: int) -> None:
        """Go on after the last whole line; what a dying process left of another one is cut off."""
        self._handle = handle
        self.step, size = _read(os.pread(handle, os.fstat(handle).st_size, 0))
        """How far the shard is."""
        os.ftruncate(handle, size)
        os.lseek(handle, 0, os.SEEK_END)

    def append(self, step: Step) -> None:
        """Note a step that is on the disk already."""
        left = json.dumps({name: value for name, value in asdict(step).items() if value is not None}).encode() + b"\n"
        while left:
            left = left[os.write(self._handle, left) :]
        os.fsync(self._handle)
        self.step = step


@contextmanager
def claimed(folder: Path, shard: int) -> Iterator[Journal | None]:
    """Work on a shard alone.

    Yields:
        Its journal; None if another process works on it.

    Raises:
        FileNotFoundError: The build has ended.
    """
    handle = take_lock(journal_path(folder, shard), make=False)
    if handle is None:
        yield None
        return
    try:
        yield Journal(handle)
    finally:
        os.close(handle)


def _read(content: bytes) -> tuple[Step, int]:
    """The last whole line, and where it ends. A torn line has no end, or is no JSON."""
    step, size = Step(), 0
    for line in content.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        try:
            step = Step(**json.loads(line))
        except (ValueError, TypeError):
            break
        size += len(line)
    return step, size
