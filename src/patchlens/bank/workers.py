"""Who computes the shards of a build: this process, more of them on this machine, or those that a cluster started.

Nobody hands work out. A worker takes the first shard that is not complete and that no living process works on; when a
worker dies, the system drops its lock and another one goes on where its journal ends. Run as a module, this is one more
worker, see `processes`.
"""

import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from patchlens.bank import format as layout
from patchlens.bank.extract import extract
from patchlens.bank.format import VectorFiles
from patchlens.bank.journal import BANK, PLAN, Journal, Record, Step, claimed, read_record
from patchlens.bank.pack import make_batches
from patchlens.bank.plan import Plan, load_plan
from patchlens.errors import ModelError, PatchlensError, StorageError
from patchlens.models.loading import load_model
from patchlens.models.model import Model
from patchlens.storage import refusals

__all__ = ["Advance", "Team", "device_of", "join", "own_device", "processes", "team", "threads", "threads_each", "work"]

Advance = Callable[[int | None, int], None]
"""Called as `advance(shard, positions)` with the positions of a shard that are done, and now and then while waiting for
other workers as `advance(None, 0)`."""

FLUSH_SECONDS = 5.0
"""Of work that may have to be done again after a crash; flushing more often costs time on network disks."""

POLL_SECONDS = 0.2
"""Between two looks at what other workers do."""

_PATIENCE = 10.0  # seconds for another worker to end by itself


@dataclass(frozen=True)
class Team:
    """One of several processes that a cluster's launcher started with the same command."""

    rank: int
    """Which one, from 0."""
    size: int
    """How many there are."""
    local_rank: int
    """Which one on its machine."""


def team(environment: Mapping[str, str] = os.environ) -> Team | None:
    """The processes that torchrun or Slurm (srun) started together with this one; None if it is alone."""
    for rank, size, local_rank in (
        ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
        ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    ):
        try:
            found = Team(
                int(environment[rank]), int(environment[size]), int(environment.get(local_rank, environment[rank]))
            )
        except (KeyError, ValueError):
            continue
        if found.size > 1:
            return found
    return None


def work(folder: Path, record: Record, model: Model, plan: Plan, advance: Advance, *, first: int = 0) -> None:
    """Compute shards until all are complete, whoever completes them.

    Args:
        folder: Of the build.
        record: What it makes.
        model: Of the record's fingerprint and data type.
        plan: The build's.
        advance: Told after each batch.
        first: The shard to begin with; workers that begin apart seldom meet.

    Raises:
        NonFiniteStates: As `extract`.
        BankCorrupt: A vector file of the build is missing, cut short or edited.
        OSError: The disk refused.
    """
    files = VectorFiles.reopen(
        folder / BANK, record.bank.layers, record.shard_rows, record.bank.d_model, record.bank.dtype
    )
    todo = [*range(first, len(record)), *range(first)]
    try:
        with threads(record.threads):
            while todo:
                left = []
                for shard in todo:
                    with claimed(folder, shard) as journal:
                        if journal is None:
                            left.append(shard)
                        elif journal.step.files is None:
                            _compute(folder, record, model, plan, shard, journal, files, advance)
                if left == todo:
                    advance(None, 0)
                    time.sleep(POLL_SECONDS)
                todo = left
    finally:
        files.close()


def _compute(
    folder: Path,
    record: Record,
    model: Model,
    plan: Plan,
    shard: int,
    journal: Journal,
    files: VectorFiles,
    advance: Advance,
) -> None:
    step, flushed = journal.step, time.monotonic()
    batches = make_batches(plan, record.packing, record.runs_of(shard))[step.batches :]
    for batch, found in extract(model, plan, record.bank.layers, batches, record.bank.dtype):
        for layer, rows in found.items():
            files.write(layer, batch.rows.start, rows)
        step = Step(step.batches + 1, step.positions + batch.positions)
        if time.monotonic() - flushed >= FLUSH_SECONDS:
            files.flush()
            journal.append(step)
            flushed = time.monotonic()
        advance(shard, step.positions)
    files.flush()
    paths = sorted((folder / BANK).glob(f"layer_*-{shard + 1:05d}-of-*.safetensors"))
    hashes = {path.name: {"bytes": path.stat().st_size, "sha256": layout.sha256(path)} for path in paths}
    journal.append(Step(step.batches, step.positions, hashes))


def join(folder: Path, number: int, workers: int, device: str) -> None:
    """Be one more worker of a build whose plan stands: load the model as the first one did, and work.

    Args:
        folder: Of the build.
        number: Of this worker, from 0.
        workers: How many there are.
        device: Where to compute: "cpu", "cuda:1".

    Raises:
        StorageError: The folder cannot be seen from here.
        ModelError: The model cannot be loaded here, or is another one.
    """
    record = read_record(folder)
    if record is None or record.loading is None:
        raise StorageError(
            f"Working on the build in {folder}: there is no such build here. All workers must see that folder; put the "
            "bank on storage that they share."
        )
    model = load_model(**_arguments(record.loading), device_map=None if device == "cpu" else device)
    if model.fingerprint != record.bank.provenance.fingerprint:
        raise ModelError(
            f"Working on the build in {folder}: {model.name} has the weights {model.fingerprint[:12]}… here, but the "
            f"build was started with {record.bank.provenance.fingerprint[:12]}…. Give all workers the same model."
        )
    with refusals(folder, left=""):
        plan = load_plan(folder / PLAN)
        work(folder, record, model, plan, lambda *_: None, first=number * len(record) // workers)


def _arguments(loading: Mapping[str, Any]) -> dict[str, Any]:
    return dict(loading)


@contextmanager
def processes(folder: Path, device: str, workers: int) -> Iterator[Callable[[], None]]:
    """Have more workers on this machine, until the block ends or this process does.

    Args:
        folder: Of the build.
        device: Of this process.
        workers: How many in all; this process is one of them.

    Yields:
        To be called now and then: warns once of each worker that has ended too early. The others do its share.
    """
    children = {number: _start(folder, number, workers, device_of(device, number)) for number in range(1, workers)}

    def watch() -> None:
        for number, child in [*children.items()]:
            if child.poll() is not None and child.returncode != 0:
                _end(children.pop(number))
                _warn(folder, number, child.returncode)

    try:
        yield watch
    finally:
        for child in children.values():
            _end(child)


def _start(folder: Path, number: int, workers: int, device: str) -> "subprocess.Popen[bytes]":
    words = [sys.executable, "-m", "patchlens.bank.workers", str(folder), str(number), str(workers), device]
    with _log(folder, number).open("wb") as log:
        # In a session of its own, so that Ctrl-C comes to this process alone, which ends the others by closing stdin.
        return subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True
        )


def _end(child: "subprocess.Popen[bytes]") -> None:
    if child.stdin is not None:
        child.stdin.close()
    try:
        child.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _warn(folder: Path, number: int, status: int) -> None:
    said = _log(folder, number).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    why = said[-1] if status > 0 and said else f"killed by signal {-status}" if status < 0 else f"status {status}"
    warnings.warn(
        f"Worker {number} of the build in {folder} has ended: {why}. The others do its share.",
        RuntimeWarning,
        stacklevel=2,
    )


def _log(folder: Path, number: int) -> Path:
    return folder / f"worker-{number}.log"


def device_of(device: str, number: int) -> str:
    """The device of a worker, on a machine where another one has `device`: on GPUs, each takes the next in turn."""
    kind = torch.device(device)
    if kind.type != "cuda":
        return device
    return f"cuda:{((kind.index or 0) + number) % torch.cuda.device_count()}"


def own_device(device_map: str | None) -> str | None:
    """Where a process that a cluster's launcher started loads its model, where all were told "cuda"."""
    others = team()
    return device_of(device_map, others.local_rank) if others is not None and device_map == "cuda" else device_map


def threads_each(workers: int) -> int:
    """Threads of each of several workers on this machine."""
    return max(1, torch.get_num_threads() // workers)


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Compute with so many threads inside the block; None leaves them as they are."""
    before = torch.get_num_threads()
    try:
        if number is not None:
            torch.set_num_threads(number)
        yield
    finally:
        torch.set_num_threads(before)


def _end_with_parent() -> None:
    """The parent holds the other end of stdin, which the system closes when it dies."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _main(folder: str, number: str, workers: str, device: str) -> int:
    _end_with_parent()
    try:
        join(Path(folder), int(number), int(workers), device)
    except PatchlensError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
