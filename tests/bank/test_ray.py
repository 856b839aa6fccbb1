"""A local Ray of two workers, one of which is killed in the middle."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from patchlens.bank import attempt as module
from patchlens.bank import launch_ray
from patchlens.bank.build import build_bank
from patchlens.bank.journal import last_step
from patchlens.bank.pack import Packing
from patchlens.errors import BankError, MissingExtra, StorageError

CORPUS = [f"Line {n} says that the {n * 37 % 101} red cats sleep." for n in range(200)]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some ten shards, each of several batches; a Ray of our own, whatever runs on this machine."""
    monkeypatch.setattr(module, "FILE_BYTES", (20_000, 20_000))
    monkeypatch.setattr(module, "choose_packing", lambda model, plan: Packing(packed=True, positions=12, packs=1))
    monkeypatch.setenv("RAY_ADDRESS", "local")


def actors() -> list[int]:
    """Actors of ours below this process that are at work."""
    parents, found = {}, []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if (path / "cmdline").read_bytes().startswith(b"ray::BankWorker.work"):
                found.append(int(path.name))
        except OSError:
            continue

    def is_below(process: int) -> bool:
        return process == os.getpid() or (process in parents and is_below(parents[process]))

    return [process for process in found if is_below(process)]


def test_a_worker_that_is_killed_comes_back_and_the_bytes_are_the_same(
    causal_folder: Callable[..., Path], tmp_path: Path
) -> None:
    expected = content(build_bank(causal_folder("llama"), CORPUS, tmp_path / "alone", per_token=1000).folder)
    build, killed = tmp_path / ".bank.build", []

    def complete() -> int:
        shards = range(len(list((build / "journal").glob("*"))))
        return sum(last_step(build, shard).files is not None for shard in shards)

    def report(stage: str, done: int, total: int) -> None:
        if stage == "run" and not killed and 0 < complete() < len(expected) // 3 - 1 and actors():
            killed.append(actors()[0])
            os.kill(killed[0], signal.SIGKILL)

    asked_to_end = signal.getsignal(signal.SIGTERM)
    options = {"per_token": 1000, "workers": 2, "launcher": "ray"}
    bank = build_bank(causal_folder("llama"), CORPUS, tmp_path / "bank", report=report, **options)
    assert signal.getsignal(signal.SIGTERM) is asked_to_end
    assert len(killed) == 1
    assert content(bank.folder) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "bank"]


def test_what_a_worker_raises_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a cluster: what Ray hands over when a task failed, and when its actor is gone for good."""
    import ray

    told = {
        "ours": ray.exceptions.RayTaskError("work", "trace", StorageError("All workers must see that folder.")),
        "lost": ray.exceptions.RayActorError(),
    }

    def get(task: str) -> None:
        raise told[task]

    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(StorageError, match="must see that folder"):
        launch_ray._check("ours")
    with pytest.raises(BankError, match=r"a worker was lost for good.*run the same again"):
        launch_ray._check("lost")


def test_ray_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_ray, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'patchlens\[ray\]'"):
        build_bank("picturebook", CORPUS, tmp_path / "bank", launcher="ray")
    assert list(tmp_path.iterdir()) == []
