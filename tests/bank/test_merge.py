import errno
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import SENTENCES
from patchlens.bank import format as layout
from patchlens.bank import merge as module
from patchlens.bank.bank import Bank, open_bank
from patchlens.bank.build import build_bank
from patchlens.bank.encoding import DTYPES
from patchlens.bank.importing import import_bank
from patchlens.bank.merge import kept_rows, merge_banks
from patchlens.bank.plan import Selection, make_plan
from patchlens.errors import BankMismatch, BankNotFound, OptionError, StorageError
from patchlens.inputs.corpus import Sentence
from patchlens.models.model import Model
from reference.latentlens import saved, small

ONE, OTHER = SENTENCES[:5], SENTENCES[3:]
"""Two corpora that have two sentences in common."""


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def held(bank: Bank, layer: int = 2) -> dict[tuple[str, int, str], tuple[str, torch.Tensor]]:
    """Each context, by all that the model saw of it: its word, and its vector."""
    rows = map(bank.context, range(len(bank)))
    vectors = bank.vectors(layer, unit=True)
    return {
        (found.sentence[: found.prefix_end], found.position, found.token): (found.word, vectors[found.row])
        for found in rows
    }


@pytest.fixture(scope="module")
def parts(tiny_causal: Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bank, Bank]:
    folder = tmp_path_factory.mktemp("banks")
    one, other = (build_bank(tiny_causal, part, folder / name) for name, part in (("one", ONE), ("other", OTHER)))
    return one, other


@pytest.mark.parametrize("choose", ["reservoir", "first"])
@pytest.mark.parametrize("per_token", [1, 3, 1000])
def test_merging_is_building_from_both(tiny_causal: Model, tmp_path: Path, choose: str, per_token: int) -> None:
    rule: Any = {"choose": choose, "per_token": per_token, "seed": 3, "dtype": "float32"}
    banks = [build_bank(tiny_causal, part, tmp_path / str(len(part)), **rule) for part in (SENTENCES[:3], OTHER)]
    merged = held(merge_banks(banks, tmp_path / "merged"))
    whole = held(build_bank(tiny_causal, [*SENTENCES[:3], *OTHER], tmp_path / "whole", **rule))
    assert merged.keys() == whole.keys()
    for key, (word, vector) in merged.items():
        assert word == whole[key][0]
        torch.testing.assert_close(vector, whole[key][1], atol=1e-5, rtol=0)


def test_no_row_is_twice(parts: tuple[Bank, Bank], tmp_path: Path, tiny_causal: Model) -> None:
    one, other = parts
    merged = merge_banks(parts, tmp_path / "merged")
    merged.verify(model=tiny_causal)
    assert len(held(merged)) == len(merged) < len(one) + len(other)
    assert held(merged).keys() == held(one).keys() | held(other).keys()
    # Those that both have are the first bank's: they stand in its sentences, in its order, before the rest.
    assert [merged.context(row) for row in range(len(one))] == [one.context(row) for row in range(len(one))]
    assert merged.sentences["text"].to_pylist()[: len(one.sentences)] == one.sentences["text"].to_pylist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_are_copied_as_they_are_stored(
    tiny_causal: Model, tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    banks = [
        build_bank(tiny_causal, part, tmp_path / str(number), dtype=dtype)
        for number, part in enumerate((SENTENCES[:2], SENTENCES[2:4], SENTENCES[4:]))
    ]
    monkeypatch.setattr(layout, "SHARD_BYTES", 64 * 40)
    monkeypatch.setattr(module, "_BLOCK_BYTES", 64 * 9)
    merged = merge_banks(banks, tmp_path / "merged")
    merged.verify()
    assert len(merged.shards[1]) > 2
    kept = kept_rows([(bank.contexts, bank.sentences) for bank in banks], banks[0].provenance.settings)
    numbers = [torch.from_numpy(np.flatnonzero(rows)) for rows in kept]
    for layer in merged.layers:
        stored = [bank.take(layer, rows) for bank, rows in zip(banks, numbers, strict=True)]
        found = merged.take(layer, torch.arange(len(merged)))
        expected = torch.cat([part.vectors.view(torch.uint8) for part in stored])
        assert torch.equal(found.vectors.view(torch.uint8), expected)
        if found.scales is not None:
            assert torch.equal(found.scales, torch.cat([part.scales for part in stored if part.scales is not None]))


def test_the_same_banks_give_the_same_bytes(parts: tuple[Bank, Bank], tmp_path: Path) -> None:
    first = content(merge_banks(parts, tmp_path / "one").folder)
    assert first == content(merge_banks([bank.folder for bank in parts], tmp_path / "deep" / "other").folder)


def test_a_bank_merged_with_itself(parts: tuple[Bank, Bank], tmp_path: Path) -> None:
    one = parts[0]
    merged = merge_banks([one, one], tmp_path / "merged")
    assert merged.contexts == one.contexts
    assert merged.sentences == one.sentences
    for layer in one.layers:
        assert torch.equal(merged.vectors(layer), one.vectors(layer))


def test_a_bank_may_be_replaced_by_what_it_becomes(parts: tuple[Bank, Bank], tmp_path: Path) -> None:
    expected = content(merge_banks(parts, tmp_path / "expected").folder)
    copied = merge_banks([parts[0], parts[0]], tmp_path / "copy")
    with pytest.raises(OptionError, match="not empty"):
        merge_banks([copied, parts[1]], copied.folder)
    merged = merge_banks([copied, parts[1]], copied.folder, overwrite=True)
    assert content(merged.folder).keys() == expected.keys()
    assert {name: data for name, data in content(merged.folder).items() if name != "bank.json"} == {
        name: data for name, data in expected.items() if name != "bank.json"
    }


def test_provenance_says_what_was_merged(parts: tuple[Bank, Bank], tmp_path: Path) -> None:
    one, other = parts
    merged = merge_banks(parts, tmp_path / "merged")
    added = len(merged) - len(one)
    said = [
        {"corpus": one.manifest.corpus["sha256"], "sentences": 5, "rows": len(one)},
        {"corpus": other.manifest.corpus["sha256"], "sentences": 5, "rows": added},
    ]
    assert merged.provenance == replace(one.provenance, settings={**one.provenance.settings, "merged": said})
    assert merged.manifest.corpus["sentences"] == 10
    assert merged.manifest.corpus["sha256"] not in (one.manifest.corpus["sha256"], other.manifest.corpus["sha256"])
    again = merge_banks([merged, other], tmp_path / "again")
    assert again.provenance.settings["merged"] == [*said, {**said[1], "rows": 0}]
    assert len(again) == len(merged)


def test_progress_counts_rows(parts: tuple[Bank, Bank], tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    merged = merge_banks(parts, tmp_path / "merged", report=lambda *said: seen.append(said))
    total = len(merged) * len(merged.layers)
    assert seen[0] == ("merge", 0, total)
    assert seen[-1] == ("merge", total, total)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"per_token": 3}, r"per_token \(20 and 3\)"),
        ({"choose": "first"}, r"choose \(spread and first\)"),
        ({"words": "final"}, r"words \(all and final\)"),
        ({"skip_positions": 2}, r"skip_positions \(None and 2\)"),
        ({"seed": 1, "layers": 2}, r"layers \(1, 2, 3 and 2\), seed \(0 and 1\)"),
        ({"dtype": "int8"}, r"dtype \(float16 and int8\)"),
    ],
)
def test_banks_of_other_rules(
    parts: tuple[Bank, Bank], tiny_causal: Model, tmp_path: Path, changes: Any, told: str
) -> None:
    other = build_bank(tiny_causal, OTHER, tmp_path / "other", **changes)
    with pytest.raises(BankMismatch, match=rf"they differ in {told}\. Expected"):
        merge_banks([parts[0], other], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_banks_of_other_models(parts: tuple[Bank, Bank], tiny_llava: Model, tmp_path: Path, tiny_causal: Model) -> None:
    """And of another tokenizer, width or type computed in."""
    made = parts[0].provenance
    for changed, told in (
        ({"fingerprint": "f" * 64}, "weights"),
        ({"tokenizer": "f" * 64}, "tokenizer"),
        ({"settings": {**made.settings, "compute_dtype": "bfloat16"}}, "compute_dtype"),
        ({"settings": {**made.settings, "max_positions": 64}}, "max_positions"),
    ):
        manifest = replace(parts[1].manifest, provenance=replace(made, **changed))
        with pytest.raises(BankMismatch, match=f"they differ in {told} "):
            merge_banks([parts[0], replace(parts[1], manifest=manifest)], tmp_path / "merged")
    wide = replace(parts[1], manifest=replace(parts[1].manifest, d_model=64))
    with pytest.raises(BankMismatch, match=r"d_model \(32 and 64\)"):
        merge_banks([parts[0], wide], tmp_path / "merged")
    named = replace(parts[1], manifest=replace(parts[1].manifest, provenance=replace(made, model="its name elsewhere")))
    assert len(merge_banks([parts[0], named], tmp_path / "merged")) > len(parts[0])


def test_imported_banks(tiny_causal: Model, tmp_path: Path) -> None:
    """They have no rule and no cap; what they share is still there once."""
    cache = small(30, 32)
    first = {"embeddings": cache["embeddings"][:20], "metadata": cache["metadata"][:20]}
    second = {"embeddings": cache["embeddings"][10:], "metadata": cache["metadata"][10:]}
    folders = [saved(tmp_path / name, {1: part}) for name, part in (("one", first), ("other", second))]
    banks = [import_bank(folder, tmp_path / f"bank-{folder.name}", model=tiny_causal) for folder in folders]
    merged = merge_banks(banks, tmp_path / "merged")
    merged.verify()
    assert merged.contexts["position"].to_pylist() == list(range(30))
    expected = torch.nn.functional.normalize(cache["embeddings"])
    torch.testing.assert_close(merged.vectors(1, unit=True), expected, atol=2e-3, rtol=0)
    assert "imported" not in merged.provenance.settings
    assert [part["imported"] for part in merged.provenance.settings["merged"]] == [
        bank.provenance.settings["imported"] for bank in banks
    ]
    unknown = [import_bank(folder, tmp_path / f"unknown-{folder.name}") for folder in folders]
    with pytest.raises(BankMismatch, match="imported without its model"):
        merge_banks(unknown, tmp_path / "again")
    built = build_bank(tiny_causal, SENTENCES, tmp_path / "built", layers=1)
    with pytest.raises(BankMismatch, match=r"per_token \(None and 20\), choose \(imported and spread\)"):
        merge_banks([banks[0], built], tmp_path / "again")


def test_too_few_or_none_or_too_old(parts: tuple[Bank, Bank], tmp_path: Path) -> None:
    for banks in ([], [parts[0]]):
        with pytest.raises(OptionError, match=f"found {len(banks)}. Expected at least two"):
            merge_banks(banks, tmp_path / "merged")
    old = Bank("old", parts[0].folder, parts[0].manifest, parts[0].shards)
    vars(old)["contexts"] = old.contexts.drop(["rank"])
    with pytest.raises(BankMismatch, match="old does not say by which rank"):
        merge_banks([parts[0], old], tmp_path / "merged")
    with pytest.raises(BankNotFound, match="absent"):
        merge_banks([parts[0], tmp_path / "absent"], tmp_path / "merged")


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite", "rename", "fsync"])
def test_no_space_leaves_nothing(
    parts: tuple[Bank, Bank], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(StorageError, match="merged failed: No space left"):
        merge_banks(parts, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_leaves_nothing(parts: tuple[Bank, Bank], tmp_path: Path, stop: type[BaseException]) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        if done > total // 2:
            raise stop

    with pytest.raises(stop):
        merge_banks(parts, tmp_path / "merged", report=interrupt)
    assert list(tmp_path.iterdir()) == []


def tables(*rows: tuple[int, int, int, int, str]) -> tuple[pa.Table, pa.Table]:
    """Of (rank, token id, position, token start, sentence)."""
    sentences = list(dict.fromkeys(row[4] for row in rows))
    columns = list(zip(*rows, strict=True))
    return pa.table(
        {
            "rank": pa.array(columns[0], pa.uint64()),
            **{
                name: pa.array(columns[at], pa.int32())
                for at, name in enumerate(("token_id", "position", "token_start"), 1)
            },
            "sentence": pa.array([sentences.index(row[4]) for row in rows], pa.int32()),
        }
    ), pa.table({"text": pa.array(sentences, pa.string())})


def kept(per_token: int | None, choose: str, *banks: tuple[pa.Table, pa.Table]) -> list[list[bool]]:
    return [mask.tolist() for mask in kept_rows(banks, {"per_token": per_token, "choose": choose})]


def test_what_makes_two_rows_one_context() -> None:
    row = (7, 5, 1, 2, "a cat sat")
    for other, same in (
        (row, True),
        ((7, 5, 1, 2, "a cat ran"), True),  # the model had not read on
        ((8, 5, 1, 2, "a cat sat"), False),
        ((7, 6, 1, 2, "a cat sat"), False),
        ((7, 5, 2, 2, "a cat sat"), False),
        ((7, 5, 1, 2, "A cat sat"), False),  # a hash alone drops nothing
    ):
        assert kept(None, "spread", tables(row), tables(other)) == [[True], [not same]]


def test_a_character_in_several_tokens_is_one_context() -> None:
    """The first byte of two emoji is the same token after the same prefix, though their texts differ from there on."""
    one, other = (tables((7, 5, 1, 2, f"a {character}")) for character in "\U0001f600\U0001f601")
    assert kept(None, "spread", one, other) == [[True], [False]]


def test_texts_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TEXTS", 2)
    one = tables(*((rank, 5, 1, 2, f"a cat {rank}") for rank in range(7)))
    assert kept(None, "spread", one, one, one) == [[True] * 7, [False] * 7, [False] * 7]


def test_the_cap_of_each_rule() -> None:
    one = tables((9, 5, 1, 0, "b b"), (8, 5, 2, 0, "a a"), (1, 6, 1, 0, "a a"))
    other = tables((2, 5, 4, 0, "c c"), (3, 5, 3, 0, "c c"), (4, 6, 1, 0, "d"))
    assert kept(3, "spread", one, other) == [[True] * 3, [True, False, True]]
    assert kept(3, "first", one, other) == [[True] * 3, [False, True, True]]
    assert kept(3, "reservoir", one, other) == [[False, True, True], [True] * 3]
    assert kept(None, "imported", one, other) == [[True] * 3, [True] * 3]


WORDS = st.lists(st.sampled_from(["a", "cat", "the", "sleeps", "dog", "\U0001f600", "house"]), min_size=1, max_size=6)
# The first sentence has a word to keep under every rule; an emoji alone has none, and a plan of nothing is an error.
CORPUS = st.lists(WORDS.map(" ".join), max_size=5).map(lambda texts: ["the cat sleeps", *texts])


@settings(max_examples=40, deadline=None)
@given(CORPUS, CORPUS, st.integers(1, 4), st.sampled_from(["reservoir", "first"]), st.sampled_from(["all", "final"]))
def test_any_two_plans_merged_are_the_plan_of_both(
    tiny_tokenizer: Any, one: list[str], other: list[str], per_token: int, choose: str, words: str
) -> None:
    rule = Selection(per_token, choose, words, seed=1)
    plans = [make_plan(tiny_tokenizer, sentences(part), rule) for part in (one, other, [*one, *other])]
    masks = kept_rows([(plan.contexts, plan.sentences) for plan in plans[:2]], rule.to_json())
    parts = [plan.contexts.filter(pa.array(mask)) for plan, mask in zip(plans, masks, strict=False)]
    merged = set.union(*map(seen, parts))
    assert merged == seen(plans[2].contexts)


def sentences(texts: Sequence[str]) -> list[Sentence]:
    return [Sentence(text, f"corpus:{number}") for number, text in enumerate(texts, start=1)]


def seen(contexts: pa.Table) -> set[tuple[int, int, int]]:
    return set(zip(*(contexts[name].to_pylist() for name in ("rank", "token_id", "position")), strict=True))


@pytest.fixture(scope="module")
def tiny_tokenizer(tiny_causal: Model) -> Any:
    return tiny_causal.tokenizer


def test_opening_what_was_merged(parts: tuple[Bank, Bank], tmp_path: Path) -> None:
    merged = merge_banks(parts, tmp_path / "merged")
    assert open_bank(tmp_path / "merged").manifest == merged.manifest
