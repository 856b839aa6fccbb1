import subprocess
import sys
from importlib import import_module
from types import ModuleType

import pytest

import patchlens


def test_names_are_sorted_and_nothing_else_is_public() -> None:
    assert patchlens.__all__ == sorted(patchlens.__all__)
    assert dir(patchlens) == patchlens.__all__
    assert set(patchlens._HOME) == set(patchlens.__all__) - {"__version__", "errors"}


@pytest.mark.parametrize("name", patchlens.__all__)
def test_every_name_resolves_to_what_its_home_makes(name: str) -> None:
    value = getattr(patchlens, name)
    assert getattr(patchlens, name) is value
    if name in patchlens._HOME:
        assert callable(value)
        assert value.__doc__


def test_the_verb_capture_survives_imports_from_the_folder_of_its_name(tiny_causal) -> None:
    """Importing a file of the folder binds the name to the folder, which passes calls on."""
    folder = import_module("patchlens.capture")
    assert isinstance(folder, ModuleType)
    for verb in (patchlens.capture, folder):
        assert len(verb(tiny_causal, prompt="A cat", positions="all", layers=0)) == 3  # <s>, A, cat


def test_what_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'LatentLense'"):
        patchlens.LatentLense  # noqa: B018


def test_a_wildcard_import_gives_the_public_names() -> None:
    names: dict[str, object] = {}
    exec("from patchlens import *", names)  # only a module may use the statement
    assert set(patchlens.__all__) <= set(names)


def _in_a_new_process(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_importing_is_fast_and_silent() -> None:
    code = "import time; t = time.perf_counter(); import patchlens; print(time.perf_counter() - t)"
    runs = [_in_a_new_process(code) for _ in range(3)]
    assert [run.stderr for run in runs] == [""] * 3
    assert min(float(run.stdout) for run in runs) < 0.15


def test_importing_loads_no_heavy_library() -> None:
    heavy = {"torch", "transformers", "numpy", "pyarrow", "PIL"}
    code = f"import sys, patchlens; print({heavy} & set(sys.modules))"
    assert _in_a_new_process(code).stdout.strip() == "set()"
