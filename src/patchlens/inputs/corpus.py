"""Sentences from a file, a stream, a data set or Python, one at a time, each with the place that it came from.

Knows nothing of tokens. Nothing is dropped silently but blank lines: what cannot be read is counted, with its first
place, or is an error that names it.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from patchlens.errors import CorpusError
from patchlens.inputs.corpus_bytes import Meter, find_place
from patchlens.inputs.corpus_hub import PREFIX, open_dataset
from patchlens.inputs.corpus_records import MAX_CHARACTERS, Fault, Record, place_records

__all__ = ["MAX_CHARACTERS", "Corpus", "Sentence", "Skipped", "read_corpus"]

_ENOUGH = 1000  # lines after which a file that is mostly unusable is given up
_MISFITS = ("not UTF-8", "not JSON", "not CSV", "no such column", "wrong number of fields")


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of a corpus."""

    text: str
    """The sentence, without white space at its ends; never empty."""
    source: str
    """Where it stands, counted from 1: "file.txt:12" is the line where it begins, "file.parquet:12" and
    "owner/name:12" (a data set) the row, "corpus:12" the item of what was given from Python."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Lines of a corpus that could not be used, all for one reason."""

    count: int
    """How many lines or rows."""
    first: str
    """Where the first of them is: "file.txt:12"."""
    detail: str
    """What was found there: "is not UTF-8 (byte 0xe4 at place 2)"."""


class Corpus:
    """Sentences, to be iterated over: again and again, unless they come from a stream or a generator.

    Memory does not grow with the corpus.
    """

    def __init__(
        self, name: str, source: str, records: Callable[[Meter], Iterator[Record]], *, once: bool, strict: bool
    ) -> None:
        """Made by `read_corpus`.

        Args:
            name: For messages.
            source: What the sources of its sentences begin with.
            records: Begins a reading.
            once: Whether that can be done only once.
            strict: Whether a line that cannot be used is an error.
        """
        self.name = name
        self.skipped: dict[str, Skipped] = {}
        self._source, self._records, self._once, self._strict = source, records, once, strict
        self._begun = False
        self._meter = Meter()

    def __iter__(self) -> Iterator[Sentence]:
        """The sentences in order. `skipped` fills up meanwhile, from nothing each time.

        Raises:
            CorpusError: It cannot be read; it holds no sentence at all; more than half of its first lines are not
                UTF-8; a line cannot be used and the reading is strict; it can be read only once and was.
        """
        if self._begun and self._once:
            raise CorpusError(
                f"Reading the corpus {self.name} again: it can be read only once. "
                "Save it as a file, or pass a list of strings."
            )
        self._begun = True
        self._meter = Meter()
        skipped: dict[str, Skipped] = {}
        self.skipped = skipped
        found = False
        source = self._source
        for number, text in self._records(self._meter):
            if isinstance(text, str):
                text = text.strip()
                if not text:
                    continue
                if len(text) <= MAX_CHARACTERS:
                    found = True
                    yield Sentence(text, f"{source}:{number}")
                    continue
                text = Fault("too long", f"has {len(text):,} characters; a sentence has at most {MAX_CHARACTERS:,}")
            self._skip(skipped, number, text)
            self._refuse_hopeless(skipped, number, text, found)
        if not found:
            raise self._useless("it holds no sentence.", "Expected text, one sentence a line or row.")

    def __repr__(self) -> str:
        return f"Corpus({self.name!r})"

    @property
    def done_bytes(self) -> int:
        """How much of `total_bytes` the latest reading has read."""
        return self._meter.done

    @property
    def total_bytes(self) -> int:
        """Size of what the latest reading reads, as it is stored; 0 if that is not known, as for streams."""
        return self._meter.total

    def describe_skipped(self) -> str:
        """A sentence on what the latest reading skipped; empty if nothing was."""
        kinds = ", ".join(
            f"{each.count:,} {why} (first: {each.first} {each.detail})" for why, each in self.skipped.items()
        )
        return f"Skipped: {kinds}." if kinds else ""

    def _skip(self, skipped: dict[str, Skipped], number: int, fault: Fault) -> None:
        place = f"{self._source}:{number}"
        if self._strict:
            raise CorpusError(
                f"Reading the corpus {self.name}: {place} {fault.detail}. "
                "Correct it; without strict, such lines of a file are skipped and counted."
            )
        earlier = skipped.get(fault.why, Skipped(0, place, fault.detail))
        skipped[fault.why] = replace(earlier, count=earlier.count + fault.lines)

    def _refuse_hopeless(self, skipped: dict[str, Skipped], number: int, fault: Fault, found: bool) -> None:
        """Give up early on what was plainly not meant: a long file would only be read to be skipped."""
        if number < _ENOUGH:
            return
        if fault.why == "not UTF-8" and skipped[fault.why].count * 2 > number:
            raise CorpusError(
                f"Reading the corpus {self.name}: wrong encoding. {skipped[fault.why].count:,} of its first "
                f"{number:,} lines are not UTF-8, the first {skipped[fault.why].first}. Convert the file to UTF-8."
            )
        if not found and fault.why in _MISFITS:
            raise self._useless(
                f"none of its first {number:,} lines can be used.",
                "Check the file's suffix, which says how it is read, and the column.",
            )

    def _useless(self, found: str, expected: str) -> CorpusError:
        parts = (f"Reading the corpus {self.name}: {found}", self.describe_skipped(), expected)
        return CorpusError(" ".join(part for part in parts if part))


def read_corpus(corpus: str | Path | Iterable[str], *, column: str | int | None = None, strict: bool = False) -> Corpus:
    """Open a corpus; its sentences are read when it is iterated over.

    Args:
        corpus: A path; or a string with the URL of a file that fsspec knows ("s3://…"), a data set of the Hugging
            Face Hub ("hf:owner/name", "hf:owner/name:split", "hf:owner/name:configuration:split"), or "-" for
            standard input; or the sentences themselves. The suffix says how a file is read: .csv, .tsv, .jsonl,
            .ndjson, .json (JSON lines), .parquet, and anything else as UTF-8 text with one sentence a line. Files
            that end in .gz or .zst after that are decompressed. "-.csv.gz" says it of standard input.
        column: The column that holds the sentences. None takes the one called text, sentence, caption or phrase, or
            the only one with text. For CSV and TSV a number counts columns from 1 and says that there is no header.
        strict: Whether a line that cannot be used is an error. Otherwise it is skipped and counted. Sentences given
            from Python are always held to it.

    Returns:
        The sentences, without blank ones and without white space at their ends.

    Raises:
        CorpusError: The file is missing, a folder or unreadable, the data set or column is unknown. What shows only
            in the contents is raised while iterating.
        MissingExtra: The corpus needs a library that is not installed.
    """
    column = None if column is None else str(column)
    if isinstance(corpus, str) and corpus.startswith(PREFIX) and "://" not in corpus:
        source, records = open_dataset(corpus, column)
        return Corpus(corpus, source, records, once=False, strict=strict)
    if isinstance(corpus, str | Path):
        place = find_place(corpus)
        records = partial(place_records, place, column)
        if not place.once:
            with closing(records(Meter())) as reading:
                next(reading, None)  # what is wrong with the file or the column shows now
        return Corpus(place.name, place.file, records, once=place.once, strict=strict)
    if not isinstance(corpus, Iterable):
        raise CorpusError(
            f"Reading the corpus: found {type(corpus).__name__}. "
            "Expected the path of a file, or an iterable of sentences."
        )
    if column is not None:
        raise CorpusError(f"Reading the corpus: column is {column!r}, but sentences given from Python have none.")
    records = partial(_items, corpus)
    return Corpus("given from Python", "corpus", records, once=isinstance(corpus, Iterator), strict=True)


def _items(items: Iterable[str], _: Meter) -> Iterator[Record]:
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
        yield number, text
