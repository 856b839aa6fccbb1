import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conftest import SENTENCES
from patchlens.bank import adding as module
from patchlens.bank.adding import add_to_bank
from patchlens.bank.bank import Bank, open_bank
from patchlens.bank.build import build_bank
from patchlens.bank.importing import import_bank
from patchlens.bank.merge import merge_banks
from patchlens.errors import BankMismatch, CorpusError, OptionError
from patchlens.models.embedded import Embedded
from patchlens.models.loading import load_model
from patchlens.models.model import Model
from reference.latentlens import saved, small

OLD, NEW = SENTENCES[:4], SENTENCES[3:]
"""The bank's sentences, and those added, one of which it has."""


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def bank(tiny_causal: Model, tmp_path: Path) -> Bank:
    return build_bank(tiny_causal, OLD, tmp_path / "bank")


class Counted:
    """A report that remembers how far each stage came."""

    def __init__(self) -> None:
        self.done: dict[str, int] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.done[stage] = done


@pytest.mark.parametrize("choose", ["spread", "first", "reservoir"])
@pytest.mark.parametrize("per_token", [1, 3, 1000])
def test_adding_is_merging_with_a_bank_of_the_new_sentences(
    tiny_causal: Model, tmp_path: Path, choose: str, per_token: int
) -> None:
    rule: Any = {"choose": choose, "per_token": per_token, "seed": 2, "dtype": "float32"}
    old = build_bank(tiny_causal, OLD, tmp_path / "bank", **rule)
    new = build_bank(tiny_causal, NEW, tmp_path / "new", **rule)
    merged = merge_banks([old, new], tmp_path / "merged")
    report = Counted()
    added = add_to_bank(old, NEW, tiny_causal, report=report)
    added.verify(model=tiny_causal)
    assert added.folder == old.folder
    assert added.manifest.corpus.keys() == merged.manifest.corpus.keys()
    rows = [[replace(bank.context(row), row=0, source="") for row in range(len(bank))] for bank in (added, merged)]
    assert sorted(rows[0], key=repr) == sorted(rows[1], key=repr)
    order = [rows[0].index(context) for context in rows[1]]
    for layer in merged.layers:
        torch.testing.assert_close(added.vectors(layer)[order], merged.vectors(layer), atol=1e-5, rtol=0)
    assert added.provenance.settings["merged"][1]["rows"] == merged.provenance.settings["merged"][1]["rows"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_only_new_contexts_are_run(tiny_causal: Model, bank: Bank, tmp_path: Path) -> None:
    whole, part = Counted(), Counted()
    build_bank(tiny_causal, NEW, tmp_path / "whole", report=whole)
    add_to_bank(bank, NEW, tiny_causal, report=part)
    assert 0 < part.done["run"] < whole.done["run"]


def test_what_the_bank_has_changes_nothing(tiny_causal: Model, bank: Bank, tmp_path: Path) -> None:
    before = content(bank.folder)
    report = Counted()
    again = add_to_bank(bank.folder, OLD[::-1], tiny_causal, report=report)
    assert again.manifest == bank.manifest
    assert content(bank.folder) == before
    assert set(report.done) == {"plan"}
    copied = add_to_bank(bank, OLD, tiny_causal, out=tmp_path / "copy")
    assert content(copied.folder) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank", "copy"]
    # So a second time brings nothing either.
    more = add_to_bank(bank, NEW, tiny_causal)
    assert len(more) > len(bank)
    assert add_to_bank(more, NEW, tiny_causal).manifest == more.manifest


def test_into_another_folder(tiny_causal: Model, bank: Bank, tmp_path: Path) -> None:
    before = content(bank.folder)
    other = add_to_bank(bank, NEW, tiny_causal, out=tmp_path / "deep" / "more")
    assert content(bank.folder) == before
    with pytest.raises(OptionError, match="not empty"):
        add_to_bank(bank, NEW, tiny_causal, out=other.folder)
    with pytest.raises(OptionError, match=r"holds no bank\.json"):
        add_to_bank(bank, NEW, tiny_causal, out=tmp_path, overwrite=True)
    add_to_bank(bank, NEW, tiny_causal, out=other.folder, overwrite=True)
    in_place = add_to_bank(bank, NEW, tiny_causal)
    assert content(in_place.folder) == content(other.folder)


def test_a_corpus_in_a_file(tiny_causal: Model, bank: Bank, tmp_path: Path) -> None:
    path = tmp_path / "more.csv"
    path.write_text("id,said\n" + "".join(f'{number},"{text}"\n' for number, text in enumerate(NEW)))
    added = add_to_bank(bank, path, tiny_causal, column="said")
    assert "more.csv:3" in added.sentences["source"].to_pylist()
    with pytest.raises(CorpusError, match="such file"):
        add_to_bank(bank, "absent.txt", tiny_causal)


def test_by_name_the_model_is_loaded_as_the_bank_was_computed(
    causal_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = causal_folder("llama")
    bank = build_bank(folder, OLD, tmp_path / "bank", compute_dtype="bfloat16")
    added = add_to_bank(bank, NEW, folder)
    assert added.provenance.settings["compute_dtype"] == "bfloat16"
    with pytest.raises(BankMismatch, match=r"differ in compute_dtype \(bfloat16 and float32\).*loaded as bfloat16"):
        add_to_bank(bank, NEW, load_model(folder))
    loaded = load_model(folder, dtype="bfloat16")
    assert add_to_bank(bank, [*NEW, "A new one is here."], (loaded.network, loaded.tokenizer)).manifest != bank.manifest


def test_another_model(bank: Bank, causal_folder: Callable[..., Path]) -> None:
    before = content(bank.folder)
    with pytest.raises(BankMismatch, match=r"differ in weights \(\w{16}… and \w{16}…\).*Give the model"):
        add_to_bank(bank, NEW, causal_folder("qwen2"))
    with pytest.raises(BankMismatch, match=r"differ in tokenizer "):
        add_to_bank(bank, NEW, causal_folder("llama", bos=False))
    assert content(bank.folder) == before


def test_an_imported_bank_has_no_rule(tiny_causal: Model, tmp_path: Path) -> None:
    bank = import_bank(saved(tmp_path / "index", {1: small(3, 32)}), tmp_path / "bank", model=tiny_causal)
    with pytest.raises(BankMismatch, match="it was imported"):
        add_to_bank(bank, NEW, tiny_causal)


def test_a_bank_in_the_cache_stays(
    causal_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from patchlens.bank import bank as banks
    from patchlens.models import source

    member = Embedded("tiny", causal_folder("llama"), lambda: OLD, {"per_token": 3}, "A tiny model.")
    for place in (banks, source):
        monkeypatch.setattr(place, "embedded", lambda name: member if name == "tiny" else None)
    monkeypatch.setenv("PATCHLENS_HOME", str(tmp_path / "home"))
    with pytest.raises(OptionError, match="lies in the cache"):
        add_to_bank("tiny", NEW, "tiny")
    assert len(add_to_bank("tiny", NEW, "tiny", out=tmp_path / "mine")) > len(open_bank("tiny"))


@pytest.mark.parametrize("stage", ["plan", "run", "merge"])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_leaves_the_bank_and_goes_on(
    tiny_causal: Model, bank: Bank, tmp_path: Path, stage: str, stop: type[BaseException]
) -> None:
    before = content(bank.folder)
    expected = content(add_to_bank(bank, NEW, tiny_causal, out=tmp_path / "expected").folder)

    def interrupt(at: str, done: int, total: int) -> None:
        if at == stage and done:
            raise stop

    with pytest.raises(stop):
        add_to_bank(bank, NEW, tiny_causal, report=interrupt)
    assert content(bank.folder) == before
    report = Counted()
    assert content(add_to_bank(bank, NEW, tiny_causal, report=report).folder) == expected
    assert ("run" in report.done) == (stage != "merge")  # what was run is not run again
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank", "expected"]


def test_what_a_dead_process_left_is_no_obstacle(
    tiny_causal: Model, bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "shutil", SimpleNamespace(rmtree=lambda *_, **__: None))
        more = add_to_bank(bank, NEW[:2], tiny_causal)
    assert ".bank.added" in os.listdir(tmp_path)
    done = add_to_bank(more, NEW, tiny_causal)
    assert os.listdir(tmp_path) == ["bank"]
    done.verify(model=tiny_causal)


def test_workers_share_the_work(causal_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = causal_folder("llama")
    bank = build_bank(folder, OLD, tmp_path / "bank")
    one = add_to_bank(bank, NEW, folder, out=tmp_path / "one")
    two = add_to_bank(bank, NEW, folder, out=tmp_path / "two", workers=2)
    assert one.contexts == two.contexts
    for layer in one.layers:
        torch.testing.assert_close(one.vectors(layer), two.vectors(layer), atol=1e-3, rtol=0)
