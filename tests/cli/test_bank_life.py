"""Merge, add, import, push and pull as commands; what they do is tested beside the functions behind them."""

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from conftest import SENTENCES
from patchlens.bank import hub
from patchlens.bank.bank import open_bank
from patchlens.bank.hub import pull_bank, push_bank
from patchlens.errors import HubError
from reference.latentlens import saved, small


@pytest.fixture
def model(causal_folder: Callable[..., Path]) -> Path:
    return causal_folder("llama")


@pytest.fixture
def banks(run, model: Path, tmp_path: Path) -> tuple[Path, Path]:
    """One of the first five sentences, one of the last five."""
    made = []
    for name, part in (("one", SENTENCES[:5]), ("other", SENTENCES[3:])):
        (tmp_path / f"{name}.txt").write_text("\n".join(part))
        made.append(tmp_path / name)
        assert run("bank", "build", "-m", model, "-c", tmp_path / f"{name}.txt", "-o", made[-1]).status == 0
    return made[0], made[1]


def test_merge(run, banks: tuple[Path, Path], tmp_path: Path) -> None:
    ended = run("bank", "merge", *banks, "--out", tmp_path / "merged")
    assert ended.status == 0, ended.err
    assert "merged from 2 corpora" in " ".join(ended.out.split())
    assert max(map(len, ended.out.splitlines())) <= 80
    merged = open_bank(tmp_path / "merged")
    assert len(merged) > len(open_bank(banks[0]))
    told = run("bank", "merge", *banks, "-o", tmp_path / "merged", "--overwrite", "--json").json
    assert told == open_bank(tmp_path / "merged").info()
    refused = run("bank", "merge", *banks, "-o", tmp_path / "merged")
    assert (refused.status, refused.out) == (2, "")
    assert "not empty" in refused.err
    assert run("bank", "merge", banks[0], "-o", tmp_path / "again").status == 2


def test_add(run, banks: tuple[Path, Path], model: Path, tmp_path: Path) -> None:
    bank, corpus = banks[0], tmp_path / "other.txt"
    before = len(open_bank(bank))
    told = run("bank", "add", bank, "-m", model, "-c", corpus, "-o", tmp_path / "more", "--json").json
    assert told["rows"] == before + told["added"] - told["replaced"] > before
    ended = run("bank", "add", bank, "--model", model, "--corpus", corpus)
    assert ended.status == 0, ended.err
    assert ended.out.startswith(f"{told['added']} contexts added, 0 of the old ones replaced.")
    assert len(open_bank(bank)) == told["rows"]
    ended = run("bank", "add", bank, "--model", model, "--corpus", corpus)
    assert ended.out.startswith("0 contexts added, 0 of the old ones replaced.")


def test_add_with_another_model(run, banks: tuple[Path, Path], causal_folder: Callable[..., Path]) -> None:
    ended = run("bank", "add", banks[0], "-m", causal_folder("qwen2"), "-c", banks[0].with_suffix(".txt"))
    assert (ended.status, ended.out) == (2, "")
    assert "differ in weights" in ended.err


def test_import(run, model: Path, tmp_path: Path) -> None:
    folder = saved(tmp_path / "index", {1: small(20, 32), 3: small(20, 32)})
    ended = run("bank", "import", folder, "--out", tmp_path / "bank", "--dtype", "float32", "--layers", "3")
    assert ended.status == 0, ended.err
    assert "layers 3; 32 × float32" in ended.out
    assert "imported" in ended.out
    assert ended.err.count("\n") <= 2  # progress alone
    told = run("bank", "import", folder, "-o", tmp_path / "other", "-m", model, "--json").json
    assert told["fingerprint"] == run("bank", "info", tmp_path / "other", "--json").json["fingerprint"] != "unknown"
    assert run("bank", "info", tmp_path / "bank").status == 0


@pytest.mark.filterwarnings("always:.* rows are padding")
def test_import_tells_what_looks_damaged(run, tmp_path: Path) -> None:
    cache = small()
    cache["metadata"][0].update(token_str="<pad>", position=2)
    for row in (1, 2):
        cache["metadata"][row]["position"] = 7 + row
    ended = run("bank", "import", saved(tmp_path / "index", {1: cache}), "-o", tmp_path / "bank")
    assert ended.status == 0
    assert "1 of 3 rows are padding" in ended.err
    assert "Traceback" not in ended.err


def test_import_of_something_else(run, tmp_path: Path) -> None:
    ended = run("bank", "import", tmp_path, "-o", tmp_path / "bank")
    assert (ended.status, ended.out) == (2, "")
    assert "layer_N" in ended.err


def test_push_and_pull(run, banks: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the options that were given, and the defaults of the functions."""
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def push(*given: Any, **options: Any) -> str:
        calls.append(("push", given, options))
        return "https://hub/datasets/someone/bank"

    def pull(*given: Any, **options: Any) -> Any:
        calls.append(("pull", given, options))
        return open_bank(banks[1])

    monkeypatch.setattr(hub, "push_bank", push)
    monkeypatch.setattr(hub, "pull_bank", pull)
    assert run("bank", "push", banks[0], "someone/bank").out == "https://hub/datasets/someone/bank\n"
    words = ("--layers", "1,2", "--public", "--revision", "draft", "--no-card", "--json")
    assert run("bank", "push", banks[0], "someone/bank", *words).json == {"url": "https://hub/datasets/someone/bank"}
    assert "contexts" in run("bank", "pull", "someone/bank").out
    words = ("--out", tmp_path / "pulled", "--layers", "1", "--revision", "draft", "--overwrite", "--json")
    assert run("bank", "pull", "someone/bank", *words).json["name"] == "other"
    for _, _, options in calls:
        del options["report"]
    name, defaults = str(banks[0]), {"layers": "all", "revision": None}
    assert calls == [
        ("push", (name, "someone/bank"), {**defaults, "private": True, "card": True}),
        ("push", (name, "someone/bank"), {"layers": "1,2", "revision": "draft", "private": False, "card": False}),
        ("pull", ("someone/bank", None), {**defaults, "overwrite": False}),
        ("pull", ("someone/bank", tmp_path / "pulled"), {"layers": "1", "revision": "draft", "overwrite": True}),
    ]
    for function, options in ((push_bank, calls[0][2]), (pull_bank, calls[2][2])):
        parameters = signature(function).parameters
        assert {name: parameters[name].default for name in options} == options


def test_a_hub_that_refuses(run, banks: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise HubError("Pushing: the Hub answered 403. Check the token.")

    monkeypatch.setattr(hub, "push_bank", refuse)
    ended = run("bank", "push", banks[0], "someone/bank")
    assert (ended.status, ended.out) == (2, "")
    assert "Check the token." in ended.err
