"""Sentences from a text file or from Python, one at a time, each with the place that it came from.

Knows nothing of tokens. Nothing is dropped silently but blank lines: what cannot be read is an error that
names its line.
"""

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from patchlens.errors import CorpusError

__all__ = ["MAX_CHARACTERS", "Sentence", "read_corpus"]

MAX_CHARACTERS = 100_000
"""Longest sentence, in characters. A longer line is a file that is not one sentence a line."""

_MAX_BYTES = 4 * MAX_CHARACTERS + 8  # four bytes a character, a byte order mark and the line's end


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of a corpus."""

    text: str
    """The sentence, without white space at its ends; never empty."""
    source: str
    """Where it stands, counted from 1: "file.txt:12", or "corpus:12" for sentences given from Python."""


def read_corpus(corpus: str | Path | Iterable[str]) -> Iterator[Sentence]:
    """Read sentences one at a time.

    Args:
        corpus: A UTF-8 text file with one sentence a line, or the sentences themselves. Blank lines and
            white space at the ends are dropped.

    Yields:
        The sentences in order.

    Raises:
        CorpusError: The file is missing, a folder, unreadable, empty, binary or not UTF-8; a line is longer
            than `MAX_CHARACTERS`; an item is not a string; there is no sentence at all.
    """
    if isinstance(corpus, str | Path):
        return _some(_from_file(_checked(Path(corpus))), str(corpus))
    if not isinstance(corpus, Iterable):
        raise CorpusError(
            f"Reading the corpus: found {type(corpus).__name__}. "
            "Expected the path of a text file, or an iterable of sentences."
        )
    return _some(_from_items(corpus), "the corpus")


def _checked(path: Path) -> Path:
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        found = "there is no such file" if missing else getattr(error, "strerror", None) or str(error)
        raise CorpusError(
            f"Reading the corpus {str(path)[:200]}: {found}. Check the path; "
            "to give sentences themselves, pass a list of strings."
        ) from error
    if is_folder:
        raise CorpusError(f"Reading the corpus {path}: it is a folder. Expected a text file, one sentence a line.")
    return path


def _from_file(path: Path) -> Iterator[Sentence]:
    try:
        with path.open("rb") as file:
            lines = iter(lambda: file.readline(_MAX_BYTES), b"")  # a huge line is never read whole
            for number, line in enumerate(lines, start=1):
                text = _decoded(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, path, number)
                if sentence := _sentence(text, f"{path.name}:{number}"):
                    yield sentence
    except OSError as error:
        raise CorpusError(f"Reading the corpus {path} failed: {error.strerror}. Check the file.") from error


def _decoded(line: bytes, path: Path, number: int) -> str:
    if len(line) >= _MAX_BYTES:  # cut by readline, possibly inside a character
        raise _too_long(f"{path.name}:{number}", f"over {len(line) // 4:,}")
    if b"\0" in line:
        raise CorpusError(
            f"Reading the corpus {path}: line {number} holds a zero byte, so the file is binary or UTF-16. "
            "Expected UTF-8 text, one sentence a line."
        )
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"Reading the corpus {path}: line {number} is not UTF-8 (byte 0x{line[error.start]:02x} at place "
            f"{error.start + 1}). Convert the file to UTF-8, one sentence a line."
        ) from error


def _from_items(items: Iterable[str]) -> Iterator[Sentence]:
    for number, text in enumerate(items, start=1):
        if not isinstance(text, str):
            raise CorpusError(
                f"Reading the corpus: item {number} is {type(text).__name__}. Expected a string, one sentence."
            )
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise CorpusError(
                f"Reading the corpus: item {number} holds half a surrogate pair at character {error.start + 1}. "
                "Decode the text as UTF-8 before passing it."
            ) from error
        if sentence := _sentence(text, f"corpus:{number}"):
            yield sentence


def _sentence(text: str, source: str) -> Sentence | None:
    text = text.strip()
    if len(text) > MAX_CHARACTERS:
        raise _too_long(source, f"{len(text):,}")
    return Sentence(text, source) if text else None


def _too_long(source: str, length: str) -> CorpusError:
    return CorpusError(
        f"Reading the corpus: {source} has {length} characters. Expected at most {MAX_CHARACTERS:,}, one sentence "
        "a line. Split the text into sentences first."
    )


def _some(sentences: Iterator[Sentence], name: str) -> Iterator[Sentence]:
    """Pass the sentences on; having none at all is an error."""
    empty = True
    for sentence in sentences:
        empty = False
        yield sentence
    if empty:
        raise CorpusError(f"Reading {name}: it holds no sentence. Expected text, one sentence a line.")
