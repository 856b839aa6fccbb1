"""Texts out of a data set of the Hugging Face Hub, streamed by the library datasets (an extra)."""

from collections.abc import Callable, Iterator
from typing import Any

from patchlens.errors import CorpusError, MissingExtra
from patchlens.inputs.corpus_bytes import Meter, translated
from patchlens.inputs.corpus_records import Record, pick_column, value_text

__all__ = ["PREFIX", "open_dataset"]

PREFIX = "hf:"
"""How the name of a data set begins, so that it is never taken for a path, nor a path for it."""

_ROWS = 1024  # at a time


def open_dataset(corpus: str, column: str | None) -> tuple[str, Callable[[Meter], Iterator[Record]]]:
    """Open a data set for streaming.

    Args:
        corpus: "hf:owner/name", "hf:owner/name:split" or "hf:owner/name:configuration:split". The only split, or
            "train", if none is given.
        column: The column with the sentences; None to find it.

    Returns:
        The data set's id, and what reads it, from the start each time.

    Raises:
        MissingExtra: The library is not installed.
        CorpusError: There is no such data set, configuration, split or column, or it cannot be reached.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra(
            f"Reading the corpus {corpus} needs the library datasets, which is not installed. "
            "Install it with: pip install 'patchlens[datasets]'"
        ) from error
    name, *choice = corpus.removeprefix(PREFIX).split(":")
    if not name or len(choice) > 2:
        raise CorpusError(
            f"Reading the corpus {corpus}: it names no data set. "
            "Expected hf:owner/name, hf:owner/name:split or hf:owner/name:configuration:split."
        )
    configuration, split = [None, None, *choice][-2:]
    with translated(corpus):
        splits = datasets.load_dataset(name, configuration, streaming=True)
    data = splits[_split(corpus, list(splits), split)]
    column = _column(corpus, data, column)
    return name, lambda _: _records(corpus, data.select_columns([column]), column)


def _split(corpus: str, splits: list[str], wanted: str | None) -> str:
    if wanted is None:
        wanted = splits[0] if len(splits) == 1 else "train"
    if wanted not in splits:
        raise CorpusError(
            f"Reading the corpus {corpus}: it has no split {wanted!r}. It has {', '.join(splits)}; "
            "write hf:owner/name:split with one of them."
        )
    return wanted


def _column(corpus: str, data: Any, column: str | None) -> str:
    if data.features is not None:
        texts = [
            name for name, kind in data.features.items() if getattr(kind, "dtype", "") in ("string", "large_string")
        ]
        return pick_column(corpus, list(data.features), texts, column)
    with translated(corpus):  # some formats tell their columns only with the first row
        row: dict[str, Any] = next(iter(data), {})
    return pick_column(corpus, list(row), [name for name, value in row.items() if isinstance(value, str)], column)


def _records(corpus: str, data: Any, column: str) -> Iterator[Record]:
    batches = iter(data.iter(batch_size=_ROWS))
    number = 0
    while True:
        with translated(corpus):
            batch = next(batches, None)
        if batch is None:
            return
        for value in batch[column]:
            number += 1
            yield number, value_text(value)
