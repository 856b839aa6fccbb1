"""The whole road on the embedded model as a person walks it: the README's program and the demo, each in a process."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from patchlens.evaluation.truth import open_truth
from patchlens.lenses.reading import open_readings
from patchlens.picturebook import EMBEDDED

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all, so that the bank is built once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def told(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What `patchlens demo --json` says."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    done = _run([sys.executable, "-m", "patchlens", "demo", "--json", "--out", str(out)], home, ROOT)
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


def _run(command: list[str], home: Path, folder: Path) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PATCHLENS_HOME": str(home)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return done


def test_the_demo_says_where_everything_is(told: dict[str, object]) -> None:
    assert set(told) == {"page", "readings", "bank", "seconds", "shares"}
    page = Path(str(told["page"])).read_text("utf-8")
    assert page.startswith("<!doctype html>")
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    readings = open_readings(str(told["readings"]))
    assert readings.lenses == ("latent", "logit", "embedding")
    assert readings.layers == tuple(range(9))
    assert len(readings) == 3 * 9 * 3 * 144


def test_the_demos_shares_are_what_its_readings_say(told: dict[str, dict[str, dict[str, float]]]) -> None:
    readings = open_readings(str(told["readings"]))
    truths = {path.stem: open_truth(path) for path in (EMBEDDED.examples or ROOT).glob("*.json")}
    hits = tokens = 0
    for reading in readings.select(lens="latent", layer=4):
        patch = truths[reading.image].at(reading.row or 0, reading.column or 0)
        true = patch.thing | patch.color | patch.word | patch.place | patch.kind | patch.elsewhere
        hits += any(word.lower() in true for word in reading.words)
        tokens += 1
    assert told["shares"]["latent"]["4"] == pytest.approx(hits / tokens, abs=1e-6)
    assert set(told["shares"]) == {"latent", "logit", "embedding"}


def test_one_of_the_scenes_has_a_sign() -> None:
    truths = [open_truth(path) for path in (EMBEDDED.examples or ROOT).glob("*.json")]
    assert len(truths) == 3
    assert any(patch.word for truth in truths for patch in truth.patches)


@pytest.mark.usefixtures("told")  # it built the bank
def test_the_readmes_program_prints_what_the_readme_says(home: Path, tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    program, output = re.findall(r"```(?:python|text)\n(.*?)```", text, re.S)[:2]
    (tmp_path / "src").symlink_to(ROOT / "src")
    (tmp_path / "program.py").write_text(program, "utf-8")
    done = _run([sys.executable, "program.py"], home, tmp_path)
    assert done.stdout.strip() == output.strip()
    assert (tmp_path / "park.html").stat().st_size > 50_000
