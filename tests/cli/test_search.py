from collections.abc import Callable
from pathlib import Path

import pytest

from patchlens.bank.bank import open_bank
from patchlens.models.loading import load_model
from patchlens.search.text import search_text


@pytest.fixture(scope="module")
def model(causal_folder: Callable[..., Path]) -> Path:
    return causal_folder("llama")


@pytest.fixture
def bank(run, model: Path, corpus: Path, tmp_path: Path) -> Path:
    out = tmp_path / "bank"
    assert run("bank", "build", "--model", model, "--corpus", corpus, "--out", out).status == 0
    return out


def test_a_sentence_of_the_bank_finds_itself(run, bank: Path, model: Path) -> None:
    row = next(row for row in range(len(open_bank(bank))) if open_bank(bank).context(row).position > 4)
    context = open_bank(bank).context(row)
    told = run("search", bank, context.sentence[: context.prefix_end], "--k", 2, "--json").json
    assert list(told["layers"]) == ["1", "2", "3"]
    for layer, found in told["layers"].items():
        assert (found[0]["row"], found[0]["layer"], found[0]["rank"]) == (row, int(layer), 1)
        assert found[0]["similarity"] == pytest.approx(1, abs=1e-3)
        assert (found[0]["word"], found[0]["sentence"]) == (context.word, context.sentence)
    found = search_text(bank, context.sentence[: context.prefix_end], model=load_model(model), layers=2, k=2)
    assert [found[2].words[0], found[2].sentences[0]] == [
        [each[name] for each in told["layers"]["2"]] for name in ("word", "sentence")
    ]


def test_as_a_table(run, bank: Path) -> None:
    ended = run("search", bank, "a red car", "--layers", "2", "--unique", "word")
    assert ended.status == 0, ended.err
    assert "a red car" in ended.out
    assert all(len(line) <= 80 for line in ended.out.splitlines())
    assert len([line for line in ended.out.splitlines() if "0." in line]) == 5


def test_among_some_rows_only(run, bank: Path) -> None:
    words = ("search", bank, "a red car", "--layers", "3", "--json", "--k", 1)
    found = run(*words, "--words", "Cat, dog").json["layers"]["3"]
    assert found[0]["word"].lower() in ("cat", "dog")
    found = run(*words, "--containing", "SLEEPS").json["layers"]["3"]
    assert "sleeps" in found[0]["sentence"]
    ended = run(*words, "--sources", "nowhere*")
    assert (ended.status, "expected at least one of" in ended.err) == (2, True)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--layers", "9"), "9"),
        (("--k", "0"), "Choose k from 1"),
        (("--unique", "letter"), "expected one of word, sentence"),
        (("--space", "outer"), "expected one of raw, centred, standardised"),
    ],
)
def test_options_that_cannot_be(run, bank: Path, options: tuple[str, ...], complaint: str) -> None:
    ended = run("search", bank, "a car", *options)
    assert ended.status == 2
    assert complaint in ended.err


def test_a_text_without_a_token(run, bank: Path) -> None:
    ended = run("search", bank, "")
    assert (ended.status, "has no token of its own" in ended.err) == (2, True)


def test_what_the_rows_look_like(run, bank: Path) -> None:
    told = run("bank", "stats", bank, "--json").json
    assert [layer["layer"] for layer in told["layers"]] == [1, 2, 3]
    assert all(0 < layer["half_in"] <= 32 and 0 <= layer["mean_cosine"] <= 1 for layer in told["layers"])
    assert told["rows"] == len(open_bank(bank))
    assert told["most"][0]["rows"] >= told["most"][-1]["rows"]
    ended = run("bank", "stats", bank)
    assert ended.status == 0, ended.err
    assert "cosine of two rows" in ended.out
    assert run("search", bank, "a car", "--space", "standardised").status == 0
