"""A model that a test package would embed, and the command line in this process and in another."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from patchlens.cli import main
from patchlens.evaluation.truth import PatchTruth, SceneTruth
from patchlens.models import embedded as module
from patchlens.models.embedded import GROUP, Embedded


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Run a command in this process."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: object) -> Ended:
        capsys.readouterr()
        status = main([str(word) for word in words])
        return Ended(status, *capsys.readouterr())

    return run


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start a command in a process of its own, stdout and stderr in pipes; it does not outlive the test."""
    started: list[subprocess.Popen[str]] = []
    environment = os.environ | {"PATCHLENS_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1", "COLUMNS": "80"}

    def start(*words: object, **options: Any) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "patchlens", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with process:
            process.kill()


@pytest.fixture
def scene(picture: Image.Image, tmp_path: Path) -> Path:
    """The picture of tests/conftest.py as a file."""
    path = tmp_path / "scene.png"
    picture.save(path)
    return path


@pytest.fixture
def corpus(sentences: tuple[str, ...], tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(sentences), encoding="utf-8")
    return path


@pytest.fixture
def storybook(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    llava_folder: Callable[..., Path],
    picture: Image.Image,
    sentences: tuple[str, ...],
) -> Embedded:
    """An embedded model with two example pictures: a house in the meadow, and a sign."""
    examples = tmp_path / "examples"
    examples.mkdir()
    for name in ("house", "sign"):
        picture.save(examples / f"{name}.png")
        _truth(name).save(examples / f"{name}.json")
    made = Embedded(
        name="storybook",
        folder=llava_folder("clip", "llama"),
        corpus=lambda: sentences,
        bank={"per_token": 4},
        summary="A random model [with brackets] for tests.",
        examples=examples,
    )
    entry = SimpleNamespace(name=made.name, value="tests", load=lambda: made)

    def entry_points(group: str, name: str | None = None) -> list[SimpleNamespace]:
        return [entry] if group == GROUP and name in (None, made.name) else []

    monkeypatch.setattr(module, "entry_points", entry_points)
    monkeypatch.setenv("PATCHLENS_HOME", str(tmp_path / "home"))
    return made


def _truth(name: str) -> SceneTruth:
    """4 × 4 patches: a house in the middle four, or in two of them and a sign in the last row."""
    meadow = frozenset({"meadow", "meadows"})
    house = PatchTruth(True, thing=frozenset({"house", "houses"}), color=frozenset({"red"}), place=meadow)
    sign = PatchTruth(True, thing=frozenset({"sign", "signs"}), word=frozenset({"bread"}), place=meadow)
    things = {(1, 1): house, (1, 2): house, (2, 1): house, (2, 2): house}
    if name == "sign":
        things |= {(3, column): sign for column in range(3)}
    nothing = PatchTruth(False, place=meadow)
    return SceneTruth(name, 4, 4, tuple(things.get((r, c), nothing) for r in range(4) for c in range(4)))
