"""Several workers make the same bytes as one, and cover for each other."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from patchlens.bank import attempt as module
from patchlens.bank import workers
from patchlens.bank.build import build_bank
from patchlens.bank.journal import Step, last_step
from patchlens.bank.pack import Packing
from patchlens.bank.workers import Team, device_of, join, own_device, team, threads, threads_each
from patchlens.errors import ModelError, OptionError, StorageError
from patchlens.models.loading import load_model

CORPUS = [f"Line {n} says that the {n * 37 % 101} red cats sleep." for n in range(200)]

FORKS = """
    import os, signal, sys, time
    from pathlib import Path
    import torch
    from patchlens.bank import attempt, build, journal, workers
    from patchlens.bank.pack import Packing
    from patchlens.models.loading import load_model

    torch.set_num_threads(1)
    attempt.FILE_BYTES = (20_000, 20_000)
    attempt.choose_packing = lambda model, plan: Packing(packed=True, positions=32, packs=1)
    workers.FLUSH_SECONDS = 0.05
    at_full_speed = workers.extract


    def slowly(*arguments):
        # However fast the machine, there is a moment at which two are at work.
        for found in at_full_speed(*arguments):
            time.sleep(0.02)
            yield found


    workers.extract = slowly
    corpus = [f"Line {n} says that the {n * 37 % 101} red cats sleep." for n in range(200)]
    model, place = load_model(sys.argv[1]), Path(sys.argv[2])


    def fork(name, workers=1, **environment):
        # A process of its own; forked, so that libraries are loaded once.
        process = os.fork()
        if process == 0:
            os.environ.update({key: str(value) for key, value in environment.items()})
            bank = build.build_bank(model, corpus, place / name, per_token=1000, workers=workers)
            os._exit(0 if len(bank) > 100 else 1)
        return process


    def steps(name):
        folder = place / f".{name}.build"
        return [journal.last_step(folder, shard) for shard, _ in enumerate((folder / "journal").glob("*"))]


    def wait_for(condition):
        end = time.monotonic() + 90
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.01)


    both = [fork("torchrun", RANK=rank, WORLD_SIZE=2, LOCAL_RANK=rank) for rank in range(2)]
    assert [os.waitpid(process, 0)[1] for process in both] == [0, 0]

    both = [fork("slurm", SLURM_PROCID=rank, SLURM_NTASKS=2, SLURM_LOCALID=rank) for rank in range(2)]
    wait_for(lambda: sum(0 < step.batches and step.files is None for step in steps("slurm")) > 1)  # both work
    leads = int((place / ".slurm.build" / "lock").read_text().split()[1])
    os.kill(leads, signal.SIGKILL)
    assert [os.waitpid(process, 0)[1] for process in both] == [signal.SIGKILL * (process == leads) for process in both]

    parent = fork("orphans", workers=2)
    wait_for(lambda: (place / ".orphans.build" / "worker-1.log").exists() and steps("orphans")[0].batches)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
"""


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def cut_small(patch: pytest.MonkeyPatch) -> None:
    """Some ten shards, each of many batches."""
    patch.setattr(module, "FILE_BYTES", (20_000, 20_000))
    patch.setattr(module, "choose_packing", lambda model, plan: Packing(packed=True, positions=32, packs=1))
    patch.setattr(workers, "FLUSH_SECONDS", 0.05)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_small(monkeypatch)


@pytest.fixture(scope="module")
def folder(causal_folder: Callable[..., Path]) -> Path:
    return causal_folder("llama")


@pytest.fixture(scope="module")
def expected(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bank of CORPUS by one worker."""
    with pytest.MonkeyPatch.context() as patch:
        cut_small(patch)
        return content(build_bank(folder, CORPUS, tmp_path_factory.mktemp("alone") / "bank", per_token=1000).folder)


def steps(build: Path) -> list[Step]:
    """How far each shard is."""
    return [last_step(build, shard) for shard in range(len(list((build / "journal").glob("*"))))]


def complete(build: Path) -> int:
    return sum(step.files is not None for step in steps(build))


def workers_of(build: Path) -> list[int]:
    """Processes that were started for a build."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"patchlens.bank.workers" in words and str(build).encode() in words:
            found.append(int(path.name))
    return found


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_two_workers_make_the_same_bytes(folder: Path, tmp_path: Path, expected: dict[str, bytes]) -> None:
    runs: list[tuple[int, int]] = []

    def report(stage: str, done: int, total: int) -> None:
        if stage == "run":
            if sum(positions > 0 for positions, _ in runs) == 0 < done:  # until the other one has done its share
                wait_for(lambda: complete(tmp_path / ".bank.build") > 2)
            runs.append((done, total))

    bank = build_bank(folder, CORPUS, tmp_path / "bank", per_token=1000, workers=2, report=report)
    assert content(bank.folder) == expected
    assert len(expected) > 3 + 3 * 8
    assert runs == sorted(runs)
    assert runs[-1][0] == runs[-1][1]
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]


def test_a_worker_that_is_killed(folder: Path, tmp_path: Path, expected: dict[str, bytes]) -> None:
    build, killed = tmp_path / ".bank.build", []

    def report(stage: str, done: int, total: int) -> None:
        if stage == "run" and done > 0 and not killed:
            wait_for(lambda: complete(build) > 1)
            killed.extend(workers_of(build))
            os.kill(killed[0], signal.SIGKILL)

    with pytest.warns(RuntimeWarning, match=r"Worker 1 of the build.*killed by signal 9\. The others do its share"):
        bank = build_bank(folder, CORPUS, tmp_path / "bank", per_token=1000, workers=2, report=report)
    assert len(killed) == 1
    assert content(bank.folder) == expected


def test_a_worker_that_fails_says_why(
    folder: Path, tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", tmp_path / "python")
    (tmp_path / "python").write_text("#!/bin/sh\necho Loading failed. >&2\nexit 2\n")
    (tmp_path / "python").chmod(0o755)

    def report(stage: str, done: int, total: int) -> None:
        if stage == "run" and done > 0:
            time.sleep(0.02)

    with pytest.warns(RuntimeWarning, match=r"Worker 1 of the build in .* has ended: Loading failed\."):
        bank = build_bank(folder, CORPUS, tmp_path / "bank", per_token=1000, workers=2, report=report)
    assert content(bank.folder) == expected


def test_processes_that_a_cluster_or_a_dead_process_started(
    folder: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    """Two of torchrun share the work; of two of Slurm the leading one is killed; the worker of a killed one ends."""
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(FORKS), folder, tmp_path]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert content(tmp_path / "torchrun") == expected
    assert content(tmp_path / "slurm") == expected
    wait_for(lambda: not workers_of(tmp_path / ".orphans.build"))
    assert content(build_bank(folder, CORPUS, tmp_path / "orphans", per_token=1000).folder) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["orphans", "slurm", "torchrun"]


def test_who_belongs_together() -> None:
    assert team({}) is None
    assert team({"RANK": "0", "WORLD_SIZE": "1"}) is None
    assert team({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == Team(3, 8, 1)
    assert team({"SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}) == Team(2, 4, 0)
    assert team({"SLURM_PROCID": "2", "SLURM_NTASKS": "4"}) == Team(2, 4, 2)
    assert team({"RANK": "first", "WORLD_SIZE": "2"}) is None


def test_a_team_does_not_overwrite(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchlens.bank.build.team", lambda: Team(0, 2, 0))
    with pytest.raises(OptionError, match=r"2 processes.*Remove the old bank first"):
        build_bank(folder, CORPUS, tmp_path / "bank", overwrite=True)


def test_devices_go_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [device_of("cuda:3", number) for number in range(3)] == ["cuda:3", "cuda:0", "cuda:1"]
    assert [device_of("cuda", number) for number in range(5)] == [*(f"cuda:{n}" for n in range(4)), "cuda:0"]
    assert device_of("cpu", 3) == "cpu"
    assert own_device("cuda") == "cuda"
    monkeypatch.setattr(workers, "team", lambda: Team(6, 8, 2))
    assert (own_device("cuda"), own_device("cuda:1"), own_device(None)) == ("cuda:2", "cuda:1", None)


def test_threads_are_shared_out_and_put_back() -> None:
    before = torch.get_num_threads()
    with threads(3):
        assert torch.get_num_threads() == 3
        assert [threads_each(count) for count in (1, 2, 3, 7)] == [3, 1, 1, 1]
        with threads(None):
            assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before


def test_joining_what_cannot_be_seen(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="All workers must see that folder"):
        join(tmp_path / ".bank.build", 1, 2, "cpu")


def test_joining_with_another_model(
    causal_folder: Callable[..., Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        if done and stage == "run":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_bank(folder, CORPUS[:40], tmp_path / "bank", report=interrupt)
    monkeypatch.setattr(workers, "load_model", lambda *_, **__: load_model(causal_folder("qwen2")))
    with pytest.raises(ModelError, match=r"has the weights .{12}… here.*Give all workers the same model"):
        join(tmp_path / ".bank.build", 1, 2, "cpu")
