import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from patchlens.bank.format import Manifest
from patchlens.bank.journal import (
    Record,
    Step,
    claimed,
    complete,
    journal_path,
    last_step,
    read_record,
    write_record,
)
from patchlens.bank.pack import Packing
from patchlens.errors import BankCorrupt
from patchlens.provenance import Provenance

RECORD = Record(
    bank=Manifest(
        provenance=Provenance("bank", "model", None, "ab", "cd", {"torch": "2"}, {"seed": 0, "layers": [1, 2]}),
        corpus={"sha256": "ef", "sentences": 3},
        layers=(1, 2),
        d_model=32,
        dtype="float16",
        rows=70,
        files={},
    ),
    run_cuts=(0, 5, 9),
    row_cuts=(0, 40, 70),
    packing=Packing(packed=True, positions=256, packs=4),
    device="cpu",
    threads=2,
    loading={"model": "folder", "dtype": "auto"},
)

FILES = {"layer_01-00001-of-00001.safetensors": {"bytes": 7, "sha256": "aa"}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "journal").mkdir()
    for shard in range(len(RECORD)):
        journal_path(tmp_path, shard).touch()
    return tmp_path


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    write_record(tmp_path, RECORD)
    assert read_record(tmp_path) == RECORD
    assert RECORD.shard_rows == [40, 30]
    assert RECORD.runs_of(1) == range(5, 9)
    assert len(RECORD) == 2


@pytest.mark.parametrize("name", ["bank", "run_cuts", "packing", "threads"])
def test_a_record_that_lacks_something_is_refused(tmp_path: Path, name: str) -> None:
    write_record(tmp_path, RECORD)
    body = json.loads((tmp_path / "build.json").read_text())
    del body[name]
    (tmp_path / "build.json").write_text(json.dumps(body))
    with pytest.raises(BankCorrupt, match=r"build\.json was edited"):
        read_record(tmp_path)


def test_the_last_step_counts(folder: Path) -> None:
    with claimed(folder, 0) as journal:
        assert journal is not None
        assert journal.step == Step()
        journal.append(Step(1, 100))
        journal.append(Step(3, 250))
    assert last_step(folder, 0) == Step(3, 250)
    assert not complete(folder, RECORD)
    for shard in range(2):
        with claimed(folder, shard) as journal:
            assert journal is not None
            journal.append(Step(4, 300, FILES))
    assert last_step(folder, 0) == Step(4, 300, FILES)
    assert complete(folder, RECORD)


@pytest.mark.parametrize("torn", [b"{", b'{"batches": 9, "positions": 9}', b'{"batches": 9', b"\0\0\0\0\n", b"[]\n"])
def test_a_torn_line_is_cut_off(folder: Path, torn: bytes) -> None:
    with claimed(folder, 0) as journal:
        assert journal is not None
        journal.append(Step(1, 100))
    with journal_path(folder, 0).open("ab") as file:
        file.write(torn)
    assert last_step(folder, 0) == Step(1, 100)
    with claimed(folder, 0) as journal:
        assert journal is not None
        assert journal.step == Step(1, 100)
        journal.append(Step(2, 200))
    assert journal_path(folder, 0).read_bytes().count(b"\n") == 2
    assert last_step(folder, 0) == Step(2, 200)


def test_a_line_that_the_system_takes_in_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:5]))
    with claimed(folder, 1) as journal:
        assert journal is not None
        journal.append(Step(12, 3456))
    assert last_step(folder, 1) == Step(12, 3456)


def test_a_shard_is_worked_on_by_one_process_which_may_die(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from patchlens.bank.journal import claimed\n"
        "with claimed(Path(sys.argv[1]), 0): print('claimed', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"
        with claimed(folder, 0) as journal:
            assert journal is None
        with claimed(folder, 1) as journal:
            assert journal is not None
        process.kill()
        process.wait()
        with claimed(folder, 0) as journal:
            assert journal is not None


def test_claiming_makes_no_journal(folder: Path) -> None:
    """A worker that comes late would begin anew what has been finished and removed."""
    journal_path(folder, 0).unlink()
    with pytest.raises(FileNotFoundError), claimed(folder, 0):
        pytest.fail("the body must not run")
    assert not journal_path(folder, 0).exists()
