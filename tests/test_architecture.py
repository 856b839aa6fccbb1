"""The shape of the package: who may import whom, and what stays light."""

import ast
import doctest
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import patchlens

ROOT = Path(patchlens.__path__[0])

ORDER = (
    *("errors", "axes", "provenance", "progress", "storage"),
    *("inputs", "models", "capture", "bank", "search", "lenses", "evaluation"),
    *("analysis", "causal", "views", "study", "picturebook", "cli"),
)
"""Each imports only from those before it."""

TORCH_FREE = (
    "errors.py",
    "provenance.py",
    "progress.py",
    "inputs/*.py",
    "models/patch_grid.py",
    "lenses/reading.py",
    "evaluation/*.py",
    "views/*.py",
)
"""What opens and shows results; must work where torch is not worth loading."""


def _modules(pattern: str = "**/*.py") -> list[Path]:
    return sorted(path for path in ROOT.glob(pattern) if path.is_file())


def _imports(path: Path) -> Iterator[str]:
    """Every module of ours that a file imports, anywhere in it, for types too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("patchlens"))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the order"
            if node.module == "patchlens":
                yield from (f"patchlens.{alias.name}" for alias in node.names)
            elif node.module and node.module.startswith("patchlens."):
                yield node.module


def _part(module: str) -> str:
    return module.split(".")[1]


def _dotted(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_every_folder_has_its_place_in_the_order() -> None:
    parts = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in _modules()}
    assert parts - {"__init__", "__main__"} <= set(ORDER)


def test_each_folder_imports_only_from_those_before_it() -> None:
    wrong = []
    for path in _modules():
        if path.parent == ROOT and path.stem in ("__init__", "__main__"):
            continue
        own = ORDER.index(_part(_dotted(path)))
        for module in _imports(path):
            part = _part(module)
            if part != "__version__" and ORDER.index(part) > own:
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert wrong == []


def test_only_one_file_touches_torch_hooks() -> None:
    touching = {str(path.relative_to(ROOT)) for path in _modules() if "register_forward" in path.read_text()}
    assert touching == {"models/hooks.py"}


def test_no_pickle() -> None:
    calls = ("pickle.load", "torch.load(", "torch.save(", "allow_pickle=True")
    using = {str(path.relative_to(ROOT)) for path in _modules() for call in calls if call in path.read_text()}
    assert using == {"bank/foreign.py"}  # which reads other people's, and lets them run nothing:
    text = (ROOT / "bank" / "foreign.py").read_text()
    assert [text.count(call) for call in calls] == [0, 1, 0, 0]
    assert "torch.load(path, weights_only=True, " in text


def test_nothing_outside_the_picturebook_knows_its_name() -> None:
    """In code, that is: docstrings may take it as an example."""
    knowing = []
    for path in _modules():
        tree = ast.parse(path.read_text())
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        if "picturebook" not in path.relative_to(ROOT).parts and any(
            isinstance(node, ast.Constant) and node.value == "picturebook" and id(node) not in docstrings
            for node in ast.walk(tree)
        ):
            knowing.append(str(path.relative_to(ROOT)))
    assert set(knowing) <= {"cli/demo.py"}  # the demo is of that model


def test_what_shows_results_needs_no_torch() -> None:
    modules = [_dotted(path) for pattern in TORCH_FREE for path in _modules(pattern)]
    assert len(modules) > 5
    code = "import importlib, sys\n" + "".join(
        f"importlib.import_module({name!r}); 'torch' in sys.modules and sys.exit({name!r})\n" for name in modules
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr == ""  # or the first module that needs torch


def test_postponed_annotations_would_switch_the_shape_checks_off() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for path in _modules()
        if "patchlens.axes" in set(_imports(path)) and "from __future__ import annotations" in path.read_text()
    ]
    assert wrong == []


def test_examples_in_docstrings_are_true() -> None:
    modules = [_dotted(path) for path in _modules() if ">>> " in path.read_text()]
    results = {name: doctest.testmod(import_module(name)) for name in modules}
    assert sum(result.attempted for result in results.values()) > 0
    assert [name for name, result in results.items() if result.failed] == []
