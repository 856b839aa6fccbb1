"""docs/adapters.md, followed to the letter: its package is built from the page, and proved by the conformance suite."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's package as pip would lay it out, and a copy of our tests with its tiny model among them."""
    place = tmp_path_factory.mktemp("installed")
    shutil.copytree(ROOT / "tests", place / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    blocks = re.findall(
        r"```(?:toml|python)\n# (\S+)\n(.*?)```", (ROOT / "docs" / "adapters.md").read_text(), re.DOTALL
    )
    for name, code in blocks:
        (place / name).write_text(code)
    project = tomllib.loads((place / "pyproject.toml").read_text())["project"]
    about = place / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
    ]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return place


def _python(place: Path, *words: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(place), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CI": "true"}
    return subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, cwd=place, env=environment
    )


def test_the_family_is_listed(installed: Path) -> None:
    listed = json.loads(_python(installed, "-m", "patchlens", "models", "--json").stdout)["families"]
    (found,) = (family for family in listed if family["family"] == "stripes")
    assert (found["model_types"], found["geometry"]) == (["stripes_vl"], "the upper half, then the lower half")


def test_the_conformance_suite_proves_it(installed: Path) -> None:
    settings = ("-c", ROOT / "pyproject.toml", "--rootdir", installed, "-p", "no:cacheprovider")
    ended = _python(installed, "-m", "pytest", *settings, "tests/conformance/test_families.py", "-k", "stripes", "-vv")
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-2000:]
    proved = re.findall(r"::(test_\w+)\[\S*stripes\S*\] PASSED", ended.stdout)
    assert "test_geometry_by_experiment" in proved
    assert "test_the_command_line_writes_a_page" in proved
    assert len(proved) >= 12


def test_a_wrong_geometry_does_not_pass(installed: Path) -> None:
    """The halves exchanged: every count is right, and the experiment tells."""
    module = installed / "patchlens_stripes.py"
    right = module.read_text()
    module.write_text(right.replace("return Tile(upper", "upper, lower = lower, upper\n        return Tile(upper"))
    try:
        settings = ("-c", ROOT / "pyproject.toml", "--rootdir", installed, "-p", "no:cacheprovider")
        names = "stripes and (geometry or every_size)"
        ended = _python(installed, "-m", "pytest", *settings, "tests/conformance/test_families.py", "-k", names, "-vv")
    finally:
        module.write_text(right)
    assert re.search(r"test_geometry_by_experiment\[\S*stripes\S*\] FAILED", ended.stdout), ended.stdout[-3000:]
    assert re.search(r"test_the_tokens_of_every_size\[\S*stripes\S*\] PASSED", ended.stdout)
