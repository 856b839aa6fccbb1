import sys
from html import unescape
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from lenses import synthetic
from patchlens.views import show as module
from patchlens.views.page import page
from patchlens.views.show import show


def test_in_a_terminal_it_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert show(synthetic.readings()) is None
    assert "LatentLens" in capsys.readouterr().out


def test_with_a_path_it_writes_the_page_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = show(synthetic.readings(), tmp_path / "page.html", title="Mine")
    assert path == tmp_path / "page.html"
    assert "Mine" in path.read_text(encoding="utf-8")
    assert "LatentLens" in capsys.readouterr().out


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """IPython as a notebook has it, as far as `show` asks."""
    displayed: list[object] = []
    shell = type("ZMQInteractiveShell", (), {})()
    ipython = ModuleType("IPython")
    ipython.get_ipython = lambda: shell  # type: ignore[attr-defined]
    display = ModuleType("IPython.display")
    display.HTML = lambda text: SimpleNamespace(html=text)  # type: ignore[attr-defined]
    display.display = displayed.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return displayed


def test_in_a_notebook_it_shows_the_page(notebook: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    readings = synthetic.readings()
    show(readings)
    (frame,) = notebook
    html = frame.html  # type: ignore[attr-defined]
    assert "allow-same-origin" not in html
    assert unescape(html.split('srcdoc="')[1].split('" sandbox')[0]) == page(readings)
    assert capsys.readouterr().out == ""


def test_a_page_too_large_for_a_notebook_is_the_small_table(
    notebook: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_NOTEBOOK_BYTES", 1000)
    readings = synthetic.readings()
    show(readings)
    assert notebook == [readings]
