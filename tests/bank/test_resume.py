"""A build that dies at any moment and is asked for again ends in the same bytes as one that was left alone."""

import errno
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import SENTENCES
from patchlens.bank import attempt as module
from patchlens.bank import workers
from patchlens.bank.bank import open_bank
from patchlens.bank.build import build_bank
from patchlens.bank.pack import Packing
from patchlens.errors import BankBusy, BankCorrupt, BuildMismatch, OptionError, PatchlensError, StorageError
from patchlens.models.model import Model
from patchlens.storage import workshop

FEW = SENTENCES[:3]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several shards of several batches each, and every batch on the disk at once."""
    monkeypatch.setattr(module, "FILE_BYTES", (2_000, 2_000))
    monkeypatch.setattr(module, "choose_packing", lambda model, plan: Packing(packed=True, positions=24, packs=1))
    monkeypatch.setattr(workers, "FLUSH_SECONDS", 0.0)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def expected(tiny_causal: Model, tmp_path: Path) -> dict[str, bytes]:
    """The bank of FEW, built without disturbance."""
    folder = tmp_path / "undisturbed" / "bank"
    build_bank(tiny_causal, FEW, folder, layers=[1, 3])
    return content(folder)


def states_on_the_way(folder: Path, copies: Path, build: Callable[[], object]) -> list[Path]:
    """What a process killed at any moment would leave in a folder: a copy before each call that changes something."""
    found: dict[tuple[tuple[str, bytes], ...], Path] = {}
    looking = False

    def look() -> None:
        nonlocal looking
        if looking:
            return
        looking = True
        entries = sorted(folder.rglob("*"))
        state = tuple((str(path), b"" if path.is_dir() else path.read_bytes()) for path in entries)
        if state not in found:
            found[state] = copies / f"{len(found)}"
            shutil.copytree(folder, found[state])
        looking = False

    names = ("mkdir", "open", "write", "pwrite", "ftruncate", "fsync", "posix_fallocate")
    with pytest.MonkeyPatch.context() as patch:
        for name in (*names, "rename", "replace", "unlink", "rmdir", "utime"):
            real = getattr(os, name)

            def watched(*args: object, _real: Callable[..., object] = real, **kwargs: object) -> object:
                look()
                return _real(*args, **kwargs)

            patch.setattr(os, name, watched)
        build()
    look()
    return list(found.values())


@pytest.mark.parametrize("replacing", [False, True])
def test_from_whatever_a_killed_process_leaves(
    tiny_causal: Model,
    tmp_path: Path,
    expected: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    replacing: bool,
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    if replacing:
        build_bank(tiny_causal, FEW[:1], place / "bank", layers=[1], per_token=1)

    def build(folder: Path = place) -> None:
        build_bank(tiny_causal, FEW, folder / "bank", layers=[1, 3], overwrite=replacing)

    states = states_on_the_way(place, tmp_path / "states", build)
    assert len(states) > 40
    monkeypatch.setattr(os, "getpid", lambda: 1)  # by which temporary files are told apart
    monkeypatch.setattr(os, "fsync", lambda _: None)  # slow, and a killed process loses nothing that it has written
    for state in states:
        build(state)
        assert content(state / "bank") == expected
        assert left(state) == ["bank"]


KILLED = """
    import os, random, signal, sys, time
    from pathlib import Path
    import torch
    from patchlens.bank import attempt, build, workers
    from patchlens.bank.pack import Packing
    from patchlens.models.loading import load_model

    torch.set_num_threads(1)
    attempt.FILE_BYTES = (4_000, 4_000)
    attempt.choose_packing = lambda model, plan: Packing(packed=True, positions=48, packs=1)
    workers.FLUSH_SECONDS = 0.02
    model, place = load_model(sys.argv[1]), Path(sys.argv[2])
    corpus = [f"Line {n} says that the {n * 37 % 101} red cats sleep." for n in range(200)]


    def killed(out, seconds):
        # A process of its own; forked, so that libraries are loaded once.
        process = os.fork()
        if process == 0:
            build.build_bank(model, corpus, out, per_token=10)
            os._exit(0)
        time.sleep(seconds)
        os.kill(process, signal.SIGKILL)
        return os.waitpid(process, 0)[1] == signal.SIGKILL


    began = time.monotonic()
    build.build_bank(model, corpus, place / "undisturbed", per_token=10)
    takes = time.monotonic() - began
    moments, kills, builds = random.Random(5), 0, 1
    while kills < 10:
        dead = killed(place / f"killed-{builds}", moments.uniform(0, takes))
        kills += dead
        builds += not dead
    build.build_bank(model, corpus, place / f"killed-{builds}", per_token=10)
"""


def test_ten_kills_at_random_moments(causal_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Each build is killed again and again until it ends before it is; the last one is let to its end."""
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(KILLED), causal_folder("llama"), tmp_path],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    expected = content(tmp_path / "undisturbed")
    assert len(expected) > 3 + 3 * 3  # several shards
    assert all(content(folder) == expected for folder in tmp_path.iterdir())
    assert all(folder.name.split("-")[0] in ("undisturbed", "killed") for folder in tmp_path.iterdir())


def interrupted(model: Model, out: Path, after: int = 2, **options: object) -> KeyboardInterrupt:
    """A build that is interrupted after some batches."""
    calls = 0

    def interrupt(stage: str, done: int, total: int) -> None:
        nonlocal calls
        calls += stage == "run" and done > 0
        if calls == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        build_bank(model, FEW, out, report=interrupt, **options)
    return caught.value


def test_an_interrupt_keeps_the_work_and_says_where(
    tiny_causal: Model, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    place = tmp_path / "deep" / "place"
    stopped = interrupted(tiny_causal, place / "bank", layers=[1, 3])
    assert left(place) == [".bank.build"]
    assert stopped.__notes__ == [f"What was done is kept in {place}/.bank.build; the same command goes on from there."]
    stages: list[tuple[str, int, int]] = []
    build_bank(tiny_causal, FEW, place / "bank", layers=[1, 3], report=lambda *told: stages.append(told))
    runs = [(done, total) for stage, done, total in stages if stage == "run"]
    assert {stage for stage, _, _ in stages} == {"compare", "run"}  # the plan stood
    assert 0 < runs[0][0] < runs[-1][0] == runs[-1][1]
    assert runs == sorted(runs)
    assert content(place / "bank") == expected
    assert left(place) == ["bank"]


def test_an_interrupt_while_planning_leaves_nothing(tiny_causal: Model, tmp_path: Path) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        build_bank(tiny_causal, FEW, tmp_path / "deep" / "bank", report=interrupt)
    assert not hasattr(caught.value, "__notes__")
    assert left(tmp_path) == []


def test_a_finished_build_is_not_built_again(tiny_causal: Model, tmp_path: Path) -> None:
    out = tmp_path / "bank"
    build_bank(tiny_causal, FEW, out)
    made = out.stat().st_ino
    stages: list[str] = []
    build_bank(tiny_causal, iter(FEW), out, report=lambda stage, *_: stages.append(stage))
    assert (set(stages), out.stat().st_ino) == ({"compare"}, made)
    with pytest.raises(OptionError, match="not empty"):
        build_bank(tiny_causal, FEW[:2], out)
    with pytest.raises(OptionError, match="not empty"):
        build_bank(tiny_causal, FEW, out, seed=1)
    assert left(tmp_path) == ["bank"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"seed": 3}, "seed: 0 there, 3 here"),
        ({"per_token": 7}, "per_token: 20 there, 7 here"),
        ({"choose": "first"}, "choose: spread there, first here"),
        ({"words": "final"}, "words: all there, final here"),
        ({"skip_positions": 2}, "skip_positions: None there, 2 here"),
        (
            {"layers": [1, 2], "dtype": "int8"},
            r"layers: \[1, 3\] there, \[1, 2\] here; dtype: float16 there, int8 here",
        ),
        ({"corpus": SENTENCES[:4]}, "corpus: sentences with sha256 .{12}… there, .{12}… here"),
        ({"corpus": SENTENCES[1:3]}, "corpus"),
        ({"model": "qwen2"}, r"model: .* there, .* here; weights: .{12}… there, .{12}… here"),
    ],
)
def test_going_on_with_anything_else_is_refused(
    tiny_causal: Model,
    causal_folder: Callable[..., Path],
    tmp_path: Path,
    expected: dict[str, bytes],
    options: dict[str, object],
    told: str,
) -> None:
    out = tmp_path / "place" / "bank"
    interrupted(tiny_causal, out, layers=[1, 3])
    asked = {"model": tiny_causal, "corpus": FEW, "layers": [1, 3]} | options
    if asked["model"] == "qwen2":
        asked["model"] = causal_folder("qwen2")
    with pytest.raises(BuildMismatch, match=told) as caught:
        build_bank(out=out, **asked)
    assert "remove that folder" in str(caught.value)
    assert str(tmp_path / "place" / ".bank.build") in str(caught.value)
    build_bank(tiny_causal, FEW, out, layers=[1, 3])
    assert content(out) == expected


def test_going_on_with_another_release_is_refused(
    tiny_causal: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tiny_causal, tmp_path / "bank")
    monkeypatch.setattr("patchlens.models.model.__version__", "99.0")
    with pytest.raises(BuildMismatch, match=r"release of patchlens: .* there, 99\.0 here"):
        build_bank(tiny_causal, FEW, tmp_path / "bank")


def test_two_builds_of_one_bank_at_once(tiny_causal: Model, tmp_path: Path) -> None:
    with (
        workshop(tmp_path / "bank"),
        pytest.raises(BankBusy, match=f"process {os.getpid()} on .*is doing that already"),
    ):
        build_bank(tiny_causal, FEW, tmp_path / "bank")
    assert left(tmp_path) == []
    assert len(build_bank(tiny_causal, FEW, tmp_path / "bank")) > 0


def refuse_space(monkeypatch: pytest.MonkeyPatch, function: str, after: int) -> None:
    """The disk is full from the n-th call on."""
    real, calls = getattr(os, function), 0

    def full(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args, **kwargs)

    monkeypatch.setattr(os, function, full)


@pytest.mark.parametrize(("function", "after"), [("pwrite", 8), ("write", 3), ("posix_fallocate", 2)])
def test_no_space_in_the_middle(
    tiny_causal: Model, tmp_path: Path, expected: dict[str, bytes], function: str, after: int
) -> None:
    place = tmp_path / "place"
    with pytest.MonkeyPatch.context() as patch:
        refuse_space(patch, function, after)
        with pytest.raises(
            StorageError, match=f"Writing {place}/bank failed: No space left on device. Make space"
        ) as no:
            build_bank(tiny_causal, FEW, place / "bank", layers=[1, 3])
    assert no.value.__notes__ == [f"What was done is kept in {place}/.bank.build; the same command goes on from there."]
    assert (function == "posix_fallocate") == (not (place / ".bank.build" / "bank").exists())  # its space is free again
    build_bank(tiny_causal, FEW, place / "bank", layers=[1, 3])
    assert content(place / "bank") == expected


def test_no_space_is_noticed_before_the_model_runs(
    tiny_causal: Model, tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, stages = tmp_path / "place", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10_000, 9_000, 1_000))
        with pytest.raises(StorageError, match=r"vectors need 0\.0 MB, and 0\.0 MB are free.*Make space there"):
            build_bank(tiny_causal, FEW, place / "bank", layers=[1, 3], report=lambda *told: stages.append(told))
    assert {stage for stage, _, _ in stages} == {"plan"}
    assert not (place / ".bank.build" / "bank").exists()
    stages.clear()
    build_bank(tiny_causal, FEW, place / "bank", layers=[1, 3], report=lambda *told: stages.append(told))
    assert {stage for stage, _, _ in stages} == {"compare", "run"}  # the plan had been kept
    assert content(place / "bank") == expected


def test_something_that_gets_in_the_way_meanwhile(
    tiny_causal: Model, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    place = tmp_path / "place"
    interrupted(tiny_causal, place / "bank", layers=[1, 3])
    (place / "bank").mkdir()
    (place / "bank" / "holiday.jpg").write_text("dear")
    for overwrite in (False, True):
        with pytest.raises(OptionError, match="Choose another name"):
            build_bank(tiny_causal, FEW, place / "bank", layers=[1, 3], overwrite=overwrite)
    assert content(place / "bank") == {"holiday.jpg": b"dear"}
    shutil.rmtree(place / "bank")
    build_bank(tiny_causal, FEW, place / "bank", layers=[1, 3])
    assert content(place / "bank") == expected


@pytest.mark.parametrize("damage", ["missing", "cut short", "edited"])
def test_damage_to_the_vector_files_of_an_unfinished_build(tiny_causal: Model, tmp_path: Path, damage: str) -> None:
    interrupted(tiny_causal, tmp_path / "bank")
    file = min((tmp_path / ".bank.build" / "bank").glob("*.safetensors"))
    whole = file.read_bytes()
    match damage:
        case "missing":
            file.unlink()
        case "cut short":
            file.write_bytes(whole[:-2])
        case "edited":
            file.write_bytes(whole[:9] + b"?" + whole[10:])
    with pytest.raises(BankCorrupt, match=file.name):
        build_bank(tiny_causal, FEW, tmp_path / "bank")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": "patchlens build", "version": 9}'])
def test_damage_to_the_record_of_an_unfinished_build(tiny_causal: Model, tmp_path: Path, text: str) -> None:
    interrupted(tiny_causal, tmp_path / "bank")
    (tmp_path / ".bank.build" / "build.json").write_text(text)
    with pytest.raises(BankCorrupt, match=r"its build\.json was edited.*Remove that folder"):
        build_bank(tiny_causal, FEW, tmp_path / "bank")


def test_a_torn_line_of_a_journal_is_run_again(tiny_causal: Model, tmp_path: Path, expected: dict[str, bytes]) -> None:
    place = tmp_path / "place"
    interrupted(tiny_causal, place / "bank", after=3, layers=[1, 3])
    journal = place / ".bank.build" / "journal" / "00001"
    assert journal.read_bytes().count(b"\n") > 1
    journal.write_bytes(journal.read_bytes()[:-4])
    build_bank(tiny_causal, FEW, place / "bank", layers=[1, 3])
    assert content(place / "bank") == expected


def test_what_is_not_ours_to_explain_keeps_the_work_too(tiny_causal: Model, tmp_path: Path) -> None:
    def fail(stage: str, done: int, total: int) -> None:
        if stage == "run":
            raise MemoryError

    with pytest.raises(MemoryError) as caught:
        build_bank(tiny_causal, FEW, tmp_path / "bank", report=fail)
    assert "the same command goes on" in caught.value.__notes__[0]
    assert not isinstance(caught.value, PatchlensError)
    build_bank(tiny_causal, FEW, tmp_path / "bank")
    open_bank(tmp_path / "bank").verify()
