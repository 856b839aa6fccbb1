import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from patchlens.errors import CorpusError, MissingExtra
from patchlens.inputs.corpus import Sentence, read_corpus


class Streamed:
    """What of datasets.IterableDataset is used, over rows in memory."""

    def __init__(self, rows: list[dict[str, Any]], dtypes: dict[str, str] | None, *, failing: bool = False) -> None:
        self.rows, self.dtypes, self.failing = rows, dtypes, failing
        self.features = dtypes and {name: SimpleNamespace(dtype=dtype) for name, dtype in dtypes.items()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def select_columns(self, names: list[str]) -> "Streamed":
        return Streamed([{name: row[name] for name in names} for row in self.rows], None, failing=self.failing)

    def iter(self, batch_size: int) -> Iterator[dict[str, list[Any]]]:
        for start in range(0, len(self.rows), 2):
            batch = self.rows[start : start + 2]
            yield {name: [row[name] for row in batch] for name in batch[0]}
        if self.failing:
            raise ConnectionError("the line is dead")


ROWS = [{"id": 1, "text": "A cat."}, {"id": 2, "text": None}, {"id": 3, "text": " A dog. "}]
DTYPES = {"id": "int64", "text": "string"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str | None], dict[str, Streamed]]:
    """A library datasets that knows these data sets alone."""
    known: dict[tuple[str, str | None], dict[str, Streamed]] = {}

    def load_dataset(path: str, name: str | None = None, *, streaming: bool) -> dict[str, Streamed]:
        assert streaming
        if (path, name) not in known:
            raise FileNotFoundError(f"Dataset '{path}' doesn't exist")
        return known[path, name]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return known


@pytest.mark.parametrize("dtypes", [DTYPES, None])
def test_a_data_set(hub: dict[Any, Any], dtypes: dict[str, str] | None) -> None:
    hub["owner/name", None] = {"validation": Streamed(ROWS, dtypes)}
    corpus = read_corpus("hf:owner/name")
    expected = [Sentence("A cat.", "owner/name:1"), Sentence("A dog.", "owner/name:3")]
    assert list(corpus) == expected
    assert list(corpus) == expected
    assert (corpus.skipped["no string"].count, corpus.skipped["no string"].first) == (1, "owner/name:2")
    with pytest.raises(CorpusError, match="owner/name:2 holds nothing where a string was expected"):
        list(read_corpus("hf:owner/name", strict=True))


def test_configurations_and_splits(hub: dict[Any, Any]) -> None:
    def only(text: str) -> Streamed:
        return Streamed([{"text": text}], {"text": "string"})

    hub["owner/name", None] = {"test": only("a"), "train": only("b")}
    hub["owner/name", "small"] = {"test": only("c")}
    hub["owner/odd", None] = {"x": only("a"), "y": only("b")}

    def text(corpus: str) -> str:
        return next(iter(read_corpus(corpus))).text

    assert text("hf:owner/name") == "b"
    assert text("hf:owner/name:test") == "a"
    assert text("hf:owner/name:small:test") == "c"
    for corpus in ("hf:owner/name:dev", "hf:owner/odd"):
        with pytest.raises(CorpusError, match=r"no split '(dev|train)'. It has (test, train|x, y)"):
            read_corpus(corpus)
    for corpus in ("hf:", "hf:a:b:c:d"):
        with pytest.raises(CorpusError, match="names no data set"):
            read_corpus(corpus)


@pytest.mark.parametrize("dtypes", [DTYPES, None])
def test_columns(hub: dict[Any, Any], dtypes: dict[str, str] | None) -> None:
    hub["owner/name", None] = {"train": Streamed(ROWS, dtypes)}
    assert len(list(read_corpus("hf:owner/name", column="text"))) == 2
    with pytest.raises(CorpusError, match=r"no column 'label'. It has 'id', 'text'"):
        read_corpus("hf:owner/name", column="label")
    with pytest.raises(CorpusError, match="'id' does not hold text"):
        read_corpus("hf:owner/name", column="id")


def test_what_the_hub_refuses(hub: dict[Any, Any]) -> None:
    with pytest.raises(CorpusError, match=r"hf:nobody/nothing failed: .*doesn't exist"):
        read_corpus("hf:nobody/nothing")
    hub["owner/name", None] = {"train": Streamed(ROWS, DTYPES, failing=True)}
    read = iter(read_corpus("hf:owner/name"))
    assert [next(read).text, next(read).text] == ["A cat.", "A dog."]
    with pytest.raises(CorpusError, match="the line is dead"):
        next(read)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install 'patchlens\[datasets\]'"):
        read_corpus("hf:owner/name")
