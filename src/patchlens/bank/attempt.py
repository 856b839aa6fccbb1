"""Attempts at a build: from whatever an earlier one left, to a bank in its place. See `bank.journal` for what is left.

plan ──► lay out the files ──► run the shards ──► describe ──► put in its place
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from patchlens.bank import format as layout
from patchlens.bank.bank import Bank, open_bank
from patchlens.bank.encoding import row_bytes
from patchlens.bank.extract import check_packing, choose_packing
from patchlens.bank.format import Manifest, VectorFiles
from patchlens.bank.journal import (
    BANK,
    JOURNALS,
    PLAN,
    RECORD,
    Record,
    complete,
    journal_path,
    last_step,
    read_record,
    write_record,
)
from patchlens.bank.plan import Plan, Selection, load_plan, make_plan
from patchlens.bank.workers import POLL_SECONDS, Advance, Team, processes, threads_each, work
from patchlens.errors import (
    BankBusy,
    BankCorrupt,
    BankError,
    BuildMismatch,
    ModelError,
    OptionError,
    StatesError,
    StorageError,
)
from patchlens.inputs.corpus import Corpus
from patchlens.models.model import Model
from patchlens.progress import Report
from patchlens.provenance import JSON, Provenance
from patchlens.storage import Workshop, flush, refusals, workshop

__all__ = ["Crew", "Source", "Task", "build", "skipped"]

FILE_BYTES = (8 << 20, 256 << 20)
"""Of a vector file, between these: as many files a layer as `SHARDS` where that leaves them large enough to be worth
opening and small enough to be copied and hashed at once."""

SHARDS = 32
"""Enough to keep some ten workers busy to the end. Not after the number of workers: the files are the same for any."""

_CHUNK = 1024  # sentences between two reports
_PAUSE = 3.0  # seconds, at most, until a process looks again whether the one that leads has planned, or has died


@dataclass(frozen=True, eq=False)
class Task:
    """What is asked for, except the corpus."""

    model: Model
    """What computes."""
    selection: Selection
    """The rule of choice."""
    layers: tuple[int, ...]
    """Layers to store."""
    dtype: str
    """The stored type."""
    asked: Provenance
    """All of it, as the bank will tell it; without the time, so that the same inputs give the same bytes."""
    narrow: Callable[[Plan], Plan] | None = None
    """Leaves contexts out of the plan."""


@dataclass(frozen=True)
class Crew:
    """Who does the work."""

    workers: int
    """Processes or actors that this one starts, itself counted."""
    launcher: str
    """What starts them: "processes" or "ray"."""
    others: Team | None
    """Those that a cluster started with this one."""

    def first(self, record: Record) -> int:
        """The shard that this process begins with."""
        return 0 if self.others is None else self.others.rank * len(record) // self.others.size


class Source:
    """The corpus, and its hash once that is known."""

    def __init__(self, sentences: Corpus) -> None:
        """Nothing is read yet."""
        self.sentences = sentences
        self.sha256: str | None = None

    def fingerprint(self, report: Report) -> str:
        """As `Plan.corpus`."""
        if self.sha256 is None:
            digest, done = hashlib.sha256(), 0
            for done, sentence in enumerate(self.sentences, start=1):
                digest.update(sentence.text.encode() + b"\n")
                if done % _CHUNK == 0:
                    report("compare", done, 0)
            report("compare", done, done)
            self.sha256 = digest.hexdigest()
        return self.sha256


def build(
    prepare: Callable[[], Task],
    source: Source,
    out: Path,
    crew: Crew,
    overwrite: bool,
    reuse: bool,
    report: Report,
) -> Bank:
    """Lead the build, or help who leads it, until the bank is there.

    Args:
        prepare: Loads the model and says what is asked for; called when this process is sure to be needed.
        source: The corpus.
        out: The folder to make.
        crew: Who works.
        overwrite: Replace a bank that is there.
        reuse: Unless it is just the one that is asked for.
        report: As in `build_bank`.

    Raises:
        PatchlensError: As `build_bank`.
    """
    task: Task | None = None
    pause = POLL_SECONDS
    while True:
        with workshop(out) as shop:
            if shop.mine:
                if not (shop.folder / RECORD).exists() and (overwrite or not (shop.path / layout.MANIFEST).exists()):
                    shop.check(overwrite=overwrite, marker=layout.MANIFEST)  # before the model is loaded
                task = task or prepare()
                if crew.workers > 1:
                    _check_copies(task.model, crew.workers)
                _lead(shop, task, source, crew, overwrite, reuse, report)
                return open_bank(out)
        if crew.others is None:
            raise BankBusy(
                f"Building the bank {out}: {shop.holder()} is doing that already, in {shop.folder}. Wait for it, or "
                "choose another folder."
            )
        task = task or prepare()
        _help(shop, task, source, crew)
        time.sleep(pause)
        pause = min(2 * pause, _PAUSE)


def _check_copies(model: Model, workers: int) -> None:
    if model.loading is None:
        raise OptionError(
            f"Building a bank with {workers} workers: {model.name} was made in memory, so others cannot load it. Save "
            "it, and give its folder or what load_model makes of it; or use one worker."
        )
    if len({parameter.device for parameter in model.decoder.parameters()}) > 1:
        raise OptionError(
            f"Building a bank with {workers} workers: {model.name} is spread over several devices, so it has no room "
            "for copies. Load it on a single one, or use one worker."
        )


def _lead(shop: Workshop, task: Task, source: Source, crew: Crew, overwrite: bool, reuse: bool, report: Report) -> None:
    """Take the build from wherever it is to its end."""
    plan = None
    record = read_record(shop.folder)
    if record is not None:
        _compare(shop, record, task, source, report)
    elif reuse and _is_made(shop.path, task, source, report):
        shop.clear()
        return
    if record is None or not _in_place(shop):
        shop.check(overwrite=overwrite, marker=layout.MANIFEST)
    if record is None:
        with _discarding(shop):
            shop.clear()
            record, plan = _plan(shop.folder, task, source.sentences, crew, report)
    with _keeping(shop), refusals(shop.path, left=""):
        if not _in_place(shop):
            _run(shop, record, plan, task, crew, report)
            _finish(shop, record, overwrite)
    with suppress(OSError):  # on network file systems, what others have open cannot be removed
        shop.clear(first=RECORD)


def _help(shop: Workshop, task: Task, source: Source, crew: Crew) -> None:
    """Work for the process that leads, if its plan stands; return when all is done, or there is nothing to do yet."""
    with _gone(shop), refusals(shop.path, left=""):
        record = read_record(shop.folder)
        if record is None or not (shop.folder / JOURNALS).is_dir() or complete(shop.folder, record):
            return
        _refuse_other(shop, record, task)
        source.sha256 = str(record.bank.corpus["sha256"])  # so that the end need not read the corpus
        plan = load_plan(shop.folder / PLAN)
        work(shop.folder, record, task.model, plan, lambda *_: None, first=crew.first(record))


@contextmanager
def _gone(shop: Workshop) -> Iterator[None]:
    """What is missing because the bank has been put in its place meanwhile is no failure."""
    try:
        yield
    except (FileNotFoundError, BankCorrupt):
        if (shop.folder / BANK).exists():
            raise


def _plan(folder: Path, task: Task, sentences: Corpus, crew: Crew, report: Report) -> tuple[Record, Plan]:
    plan = make_plan(task.model.tokenizer, sentences, task.selection, report)
    if task.narrow is not None:
        plan = task.narrow(plan)
    packing = choose_packing(task.model, plan)
    check_packing(task.model, plan, task.layers, packing)
    shards = plan.shards(_shard_rows(len(plan), task.model.d_model, task.dtype))
    record = Record(
        bank=Manifest(
            provenance=task.asked,
            corpus={"sha256": plan.corpus, **plan.counts, "skipped": skipped(sentences)},
            layers=task.layers,
            d_model=task.model.d_model,
            dtype=task.dtype,
            rows=len(plan),
            files={},
        ),
        run_cuts=(0, *(runs.stop for runs in shards)),
        row_cuts=tuple(accumulate((len(plan.rows_of(runs)) for runs in shards), initial=0)),
        packing=packing,
        device=task.model.device.type,
        threads=threads_each(min(crew.workers, len(shards))) if task.model.device.type == "cpu" else None,
        loading=task.model.loading,
    )
    (folder / PLAN).mkdir()
    plan.save(folder / PLAN)
    for file in (*sorted((folder / PLAN).iterdir()), folder / PLAN):
        flush(file)
    write_record(folder, record)
    return record, plan


def _shard_rows(rows: int, d_model: int, dtype: str) -> int:
    """Rows of a shard, at most. From the bank's measures alone."""
    least, most = FILE_BYTES
    size = row_bytes(d_model, dtype)
    return max(1, min(max(rows * size // SHARDS, least), most) // size)


def _run(shop: Workshop, record: Record, plan: Plan | None, task: Task, crew: Crew, report: Report) -> None:
    if (shop.folder / JOURNALS).is_dir() and complete(shop.folder, record):
        return
    if plan is None:
        plan = load_plan(shop.folder / PLAN)
        check_packing(task.model, plan, task.layers, record.packing)
    if not (shop.folder / JOURNALS).is_dir():
        _lay_out(shop, record)
    advance = _advance(shop.folder, record, report)
    if crew.launcher == "ray":
        from patchlens.bank.launch_ray import run

        run(shop.folder, record, crew.workers, advance)
    else:
        _work_here(shop.folder, record, plan, task, crew, advance)
    total: Any = record.bank.corpus["prefixes_run"]
    report("run", total, total)


def _work_here(folder: Path, record: Record, plan: Plan, task: Task, crew: Crew, advance: Advance) -> None:
    with processes(folder, str(task.model.device), min(crew.workers, len(record))) as watch:

        def advance_and_watch(shard: int | None, positions: int) -> None:
            advance(shard, positions)
            watch()

        work(folder, record, task.model, plan, advance_and_watch, first=crew.first(record))


def _lay_out(shop: Workshop, record: Record) -> None:
    """Take the space for all vectors, and begin a journal for each shard."""
    folder, bank = shop.folder / BANK, record.bank
    if folder.exists():  # half laid out
        shutil.rmtree(folder)
    needed = bank.rows * row_bytes(bank.d_model, bank.dtype) * len(bank.layers)
    if needed > (free := shutil.disk_usage(shop.folder).free):
        raise StorageError(
            f"Building the bank {shop.path}: its vectors need {_gigabytes(needed)}, and {_gigabytes(free)} are free on "
            "that disk. Make space there; or choose another disk, fewer layers or a smaller type."
        )
    try:
        folder.mkdir()
        VectorFiles.create(folder, bank.layers, record.shard_rows, bank.d_model, bank.dtype)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    flush(folder)
    begun = shop.folder / f"{JOURNALS}.new"
    begun.mkdir(exist_ok=True)
    for shard in range(len(record)):
        (begun / journal_path(shop.folder, shard).name).touch()
    flush(begun)
    os.rename(begun, shop.folder / JOURNALS)
    flush(shop.folder)


def _advance(folder: Path, record: Record, report: Report) -> Advance:
    """Add up what the shards report here and what other workers' journals say."""
    total: Any = record.bank.corpus["prefixes_run"]
    done: list[int] = [0] * len(record)
    next_look = 0.0

    def advance(shard: int | None, positions: int) -> None:
        nonlocal next_look
        began = time.monotonic()
        if began >= next_look:
            for other in range(len(record)):
                done[other] = max(done[other], last_step(folder, other).positions)
            next_look = began + max(1.0, 20 * (time.monotonic() - began))  # of the time, 5 % at most
        if shard is not None:
            done[shard] = positions
        report("run", sum(done), total)

    advance(None, 0)
    return advance


def _finish(shop: Workshop, record: Record, overwrite: bool) -> None:
    folder = shop.folder / BANK
    for name in (layout.CONTEXTS, layout.SENTENCES):
        if (shop.folder / PLAN / name).exists():
            os.replace(shop.folder / PLAN / name, folder / name)
    files = {name: _described(folder / name) for name in (layout.CONTEXTS, layout.SENTENCES)}
    for shard in range(len(record)):
        files |= last_step(shop.folder, shard).files or {}
    for path in folder.iterdir():
        if path.name not in files:  # a manifest that another attempt was about to write
            path.unlink()
    layout.write_manifest(folder, replace(record.bank, files=dict(sorted(files.items()))))
    shop.put(folder, overwrite=overwrite, marker=layout.MANIFEST)


def _described(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": layout.sha256(path)}


def _in_place(shop: Workshop) -> bool:
    """Whether the finished bank has been moved out already."""
    return (shop.folder / JOURNALS).is_dir() and not (shop.folder / BANK).is_dir()


@contextmanager
def _discarding(shop: Workshop) -> Iterator[None]:
    """Before the plan stands there is nothing worth keeping."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            shop.clear(first=RECORD)
        raise


@contextmanager
def _keeping(shop: Workshop) -> Iterator[None]:
    """Say that the same call goes on; unless it would only fail again, and nothing was done yet."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, ModelError | StatesError) and not _begun(shop.folder):
            with suppress(OSError):
                shop.clear(first=RECORD)
        else:
            error.add_note(f"What was done is kept in {shop.folder}; the same command goes on from there.")
        raise


def _begun(folder: Path) -> bool:
    return any(path.stat().st_size for path in (folder / JOURNALS).glob("*"))


def _is_made(path: Path, task: Task, source: Source, report: Report) -> bool:
    """Whether the bank that is there is what would be built."""
    if not (path / layout.MANIFEST).is_file():
        return False
    try:
        made = open_bank(path)
    except BankError:
        return False
    return made.provenance == task.asked and made.manifest.corpus["sha256"] == source.fingerprint(report)


def _compare(shop: Workshop, record: Record, task: Task, source: Source, report: Report) -> None:
    """Refuse to go on with another build."""
    _refuse_other(shop, record, task)
    there, here = str(record.bank.corpus["sha256"]), source.fingerprint(report)
    if here != there:
        raise _mismatch(shop, [f"corpus: sentences with sha256 {there[:12]}… there, {here[:12]}… here"])


def _refuse_other(shop: Workshop, record: Record, task: Task) -> None:
    there = _told(record.bank.provenance, record.device)
    here = _told(task.asked, task.model.device.type)
    if there != here:
        names = [name for name in here | there if there.get(name) != here.get(name)]
        raise _mismatch(shop, [f"{name}: {there.get(name)} there, {here.get(name)} here" for name in names])


def _told(asked: Provenance, device: str) -> dict[str, JSON]:
    """All that decides the bytes, but the corpus, by the name that a person knows it by."""
    return {
        "model": asked.model,
        "revision": asked.revision,
        "weights": f"{asked.fingerprint[:12]}…",
        "tokenizer": f"{asked.tokenizer[:12]}…",
        **asked.settings,
        "device": device,
        **{f"release of {name}": release for name, release in asked.versions.items()},
    }


def _mismatch(shop: Workshop, found: Sequence[str]) -> BuildMismatch:
    return BuildMismatch(
        f"Building the bank {shop.path}: an unfinished build of it in {shop.folder} was begun differently. "
        f"{'; '.join(found)}. To go on with it, ask for the same; to start anew, remove that folder."
    )


def skipped(sentences: Corpus) -> int:
    """Lines that the latest reading of a corpus could not use."""
    return sum(kind.count for kind in sentences.skipped.values())


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
