import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from patchlens.cli import doctor
from patchlens.models.embedded import Embedded


def _found(told: dict) -> dict:
    return {check["name"]: check for check in told["checks"]}


def test_a_healthy_machine(run, storybook: Embedded, tmp_path: Path) -> None:
    told = run("doctor", "--json").json
    assert told["ok"] is True
    found = _found(told)
    assert found["storybook"]["found"].endswith("llava, 4 blocks, d_model 32")
    assert found["cache"]["found"].startswith(str(tmp_path / "home"))
    assert {"python", "patchlens", "torch", "transformers", "cpu", "gpu", "memory"} <= set(found)
    assert found["faiss-cpu"]["found"][0].isdigit()
    assert not (tmp_path / "home").exists()  # looking leaves no trace
    ended = run("doctor")
    assert ended.status == 0
    assert ended.out.endswith("All is well.\n")
    assert max(map(len, ended.out.splitlines())) <= 80


def test_what_is_wrong_is_named_and_the_status_tells(
    run, storybook: Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(storybook.folder, broken)
    (broken / "model.safetensors").unlink()
    monkeypatch.setattr("patchlens.models.embedded.embedded", lambda name: replace(storybook, folder=broken))
    monkeypatch.setattr("patchlens.models.source.embedded", lambda name: replace(storybook, folder=broken))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PATCHLENS_HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setattr(doctor, "_NEEDED", ("torch", "no_such_library"))
    ended = run("doctor")
    assert ended.status == 1
    assert ended.out.count("WRONG") == 4  # and once in the last line
    assert "pip install no_such_library" in ended.out
    found = _found(run("doctor", "--json").json)
    assert "does not load" in found["storybook"]["found"]
    assert found["cache"]["ok"] is False


def test_little_space(run, storybook: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: usage(10**9, 10**9, 5 * 10**8))
    found = _found(run("doctor", "--json").json)
    assert found["cache"]["ok"] is False
    assert "0.5 GB free" in found["cache"]["found"]
    assert "Make space" in found["cache"]["advice"]


@pytest.mark.parametrize(
    ("home", "told"),
    [("~nobody-of-this-name/x", "no home folder is known"), ("/tmp/" + "a" * 300, "File name too long")],
)
def test_a_cache_folder_that_cannot_be(
    run, storybook: Embedded, monkeypatch: pytest.MonkeyPatch, home: str, told: str
) -> None:
    monkeypatch.setenv("PATCHLENS_HOME", home)
    found = _found(run("doctor", "--json").json)["cache"]
    assert found["ok"] is False
    assert told in found["found"] + found["advice"]


def test_what_is_optional_is_told_and_no_fault(run, storybook: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_OPTIONAL", {"no-such-library": "flying"})
    told = run("doctor", "--json").json
    assert told["ok"] is True
    assert _found(told)["no-such-library"]["found"] == "not installed; for flying"
