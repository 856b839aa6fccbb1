"""What is written about the package agrees with it."""

import re
import tomllib
from pathlib import Path

import pytest

import patchlens

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("src/**/*.md")])


def _links(page: Path) -> list[str]:
    text = re.sub(r"^(```.*?^```|    .*?$)", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"<img[^>]* src=\"([^\"]+)\"", text)
    return [link.split("#")[0] for link in found if not link.startswith(("https://", "http://", "#"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert [link for link in _links(page) if not (page.parent / link).exists()] == []


def test_links_are_found_at_all() -> None:
    assert "docs/formats.md" in _links(ROOT / "CONTRIBUTING.md")


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert versions[0] == patchlens.__version__


def test_the_citation_names_this_version() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", text, re.M) == [patchlens.__version__]


def test_the_version_is_written_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["hatch"]["version"]["path"] == "src/patchlens/__init__.py"


def test_constraints_pin_every_direct_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    for extra in project["project"]["optional-dependencies"].values():
        wanted += [requirement for requirement in extra if not requirement.startswith("patchlens")]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0] for line in lines if "==" in line}
    names = {re.split(r"[<>=!~\[ ;]", requirement)[0].lower().replace("_", "-") for requirement in wanted}
    assert names <= pinned


def _run(page: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What is defined after all Python of a page has run."""
    monkeypatch.chdir(ROOT)
    code = "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL))
    names: dict[str, object] = {}
    exec(compile(code, page, "exec"), names)
    return names


def test_the_evaluation_guide_runs_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    names = _run("evaluation.md", monkeypatch)
    assert names["verdicts"].num_rows == 3 * 2 * 2 * 2 * 5  # type: ignore[attr-defined]


def test_the_models_guide_runs_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    names = _run("models.md", monkeypatch)
    assert len(names["many"]) == 2  # type: ignore[arg-type]
    assert {"inside", "before", "after"} <= set(names)
