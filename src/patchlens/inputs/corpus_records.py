"""Texts out of the bytes of a corpus, by format, each with the number of its line or row.

Formats: text, CSV and TSV, JSON lines, Parquet. What cannot be used comes as a `Fault` in its place; what to do about
it is the caller's affair. Knows nothing of what a sentence is, but how long one may be.
"""

import csv
import json
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from patchlens.errors import CorpusError
from patchlens.inputs.corpus_bytes import Bytes, Meter, Place, lines, translated

__all__ = ["MAX_CHARACTERS", "Fault", "Record", "pick_column", "place_records", "value_text"]

MAX_CHARACTERS = 100_000
"""Longest sentence, in characters. A longer line is a file that is not one sentence a line."""

_MAX_LINE = 4 * MAX_CHARACTERS + 8  # bytes of a line of text: four a character, and white space
_MAX_RECORD = 1 << 22  # bytes of a line of JSON, characters of a record of CSV: there may be other columns
_ROWS = 1024  # of a Parquet file at a time
_JSON = json.JSONDecoder()  # json.loads looks at its options again on each line, a fifth of the time
_KNOWN = ("text", "sentence", "caption", "phrase")


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a line or row cannot be used."""

    why: str
    """The kind, for counting."""
    detail: str
    """What was found, to follow the name of the place: "is not UTF-8 (byte 0xe4 at place 2)"."""
    lines: int = 1
    """How many lines of the file it takes up."""


Record = tuple[int, str | Fault]
"""A line's or row's number, counted from 1, and its text."""


def place_records(place: Place, column: str | None, meter: Meter) -> Generator[Record, None, None]:
    """Read the texts of a place, in the format that its suffix names.

    Args:
        place: Where to read.
        column: The column with the sentences; None to find it. For CSV and TSV a number counts the columns from 1
            and says that there is no header.
        meter: Kept up to date while reading.

    Yields:
        Numbers and texts. Blank texts are among them, blank lines need not be.

    Raises:
        CorpusError: It cannot be read, or it is not clear which column to read.
    """
    with place.open(meter) as data:
        yield from _FORMATS.get(place.suffix, _text)(data, column)


def _text(data: Bytes, column: str | None) -> Iterator[Record]:
    if column is not None:
        raise CorpusError(
            f"Reading the corpus {data.place.name}: it is read as text, which has no columns, but column is "
            f"{column!r}. Leave it out, or give a file that ends in .csv, .tsv, .jsonl or .parquet."
        )
    for number, line in enumerate(lines(data, _MAX_LINE), start=1):
        yield number, _decoded(line, _MAX_LINE)


def _json_lines(data: Bytes, column: str | None) -> Iterator[Record]:
    for number, line in enumerate(lines(data, _MAX_RECORD), start=1):
        text = _decoded(line, _MAX_RECORD)
        if isinstance(text, Fault):
            yield number, text
            continue
        if not text or text.isspace():
            continue
        try:
            value = _JSON.decode(text)
        except (ValueError, RecursionError) as error:
            yield number, Fault("not JSON", f"is not JSON ({error})")
            continue
        if isinstance(value, dict):
            if column is None:
                texts = [key for key, inner in value.items() if isinstance(inner, str)]
                column = pick_column(data.place.name, list(value), texts, None)
            if column not in value:
                yield number, Fault("no such column", f"has no {column!r}; it has {_listed(list(value))}")
                continue
            value = value[column]
        elif column is not None:
            yield number, Fault("no such column", f"has no {column!r}; it is {_kind(value)}")
            continue
        yield number, value_text(value)


def _delimited(data: Bytes, column: str | None, delimiter: str) -> Iterator[Record]:
    rows = _rows(data, delimiter)
    first, header = next(rows, (1, []))
    if isinstance(header, Fault):
        raise CorpusError(
            f"Reading the corpus {data.place.name}: its first line, {data.place.file}:{first}, {header.detail}. "
            "Expected the names of the columns, or data; correct it."
        )
    if not header:
        return
    width = len(header)
    if column is not None and column.isdecimal():
        if not 1 <= int(column) <= width:
            raise CorpusError(
                f"Reading the corpus {data.place.name}: there is no column {column}. Columns are counted from 1, "
                f"and its first line has {width}."
            )
        at = int(column) - 1
        yield first, header[at]
    else:
        at = _header_column(data.place.name, [name.strip() for name in header], column)
    for number, row in rows:
        if isinstance(row, Fault):
            yield number, row
        elif len(row) != width:
            yield number, Fault("wrong number of fields", f"has {len(row)} fields; the first line has {width}")
        else:
            yield number, row[at]


def _header_column(name: str, header: list[str], column: str | None) -> int:
    """Nothing is guessed from what a cell looks like: that costs someone the first row of their data."""
    if len(header) == 1 and column is None and header[0].lower() not in _KNOWN:
        raise CorpusError(
            f"Reading the corpus {name}: its only column begins with '{header[0][:60]}'. If that is the column's name, "
            "give it as the column. If there is no line of names, give 1, the column's number."
        )
    texts = [each for each in header if each]
    try:
        return header.index(pick_column(name, header, texts, column))
    except CorpusError as error:
        raise CorpusError(f"{error} If its first line is data, give the column's number, counted from 1.") from None


def _rows(data: Bytes, delimiter: str) -> Iterator[tuple[int, list[str] | Fault]]:
    """Rows by the rules of RFC 4180, each with the line that it begins in; blank lines are left out."""
    # The module's limit holds for the process and is meant to be raised: another column may be long, and a field that
    # breaks off in the middle leaves lines behind that look like rows. The feed's limit comes before it.
    csv.field_size_limit(max(csv.field_size_limit(), 2 * _MAX_RECORD))
    feed = _Feed(data)
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    while True:
        feed.begin_record()
        try:
            row = next(reader, None)
        except csv.Error as error:
            if feed.ended:
                raise feed.unclosed() from error
            yield feed.first, Fault("not CSV", f"is not CSV ({error})", feed.number - feed.first + 1)
            continue
        if row is None:
            return
        if feed.fault is not None:
            yield feed.first, feed.fault
        elif len(row) > 1 or any(not field.isspace() for field in row if field):
            yield feed.first, row


class _Feed:
    """The lines that csv.reader asks for, and what is wrong with those of the present record."""

    def __init__(self, data: Bytes) -> None:
        self._place, self._lines = data.place, lines(data, _MAX_RECORD)
        self.number = 0
        self.ended = False
        self.begin_record()

    def begin_record(self) -> None:
        self.first = self.number + 1
        self.fault: Fault | None = None
        self._size = 0

    def __iter__(self) -> "_Feed":
        return self

    def __next__(self) -> str:
        line = next(self._lines, None)
        if line is None:
            self.ended = True
            raise StopIteration
        self.number += 1
        text = _decoded(line, _MAX_RECORD)
        if isinstance(text, Fault):
            self.fault = self.fault or text
            # Its quotes still count: the next record begins after this one's end.
            text = "" if len(line) > _MAX_RECORD else line.decode("utf-8", "replace")
        self._size += len(text)
        if self._size > _MAX_RECORD:
            raise self.unclosed()
        return text + "\n"

    def unclosed(self) -> CorpusError:
        return CorpusError(
            f"Reading the corpus {self._place.name}: the quoted field in the record that begins at "
            f"{self._place.file}:{self.first} is not closed by line {self.number:,}. A quote is missing there or too "
            "many; double the quotes inside a field, or give the sentences as text."
        )


def _parquet(data: Bytes, column: str | None) -> Iterator[Record]:
    name = data.place.name
    if data.place.once or data.place.codec:
        raise CorpusError(
            f"Reading the corpus {name}: Parquet cannot be read from a pipe or from inside an archive. "
            "Give the path of the .parquet file; it is compressed inside."
        )
    with translated(name):
        # Without both of these it would hold a whole row group of the column, which may be all of it.
        file = pq.ParquetFile(data.file, buffer_size=1 << 16, pre_buffer=False)
        schema = file.schema_arrow
    texts = [field.name for field in schema if _is_text(field.type)]
    column = pick_column(name, schema.names, texts, column)
    batches = file.iter_batches(_ROWS, columns=[column], use_threads=False)
    number = 0
    while True:
        with translated(name):
            batch = next(batches, None)
        if batch is None:
            return
        for value in _values(batch.column(0)):
            number += 1
            yield number, value if isinstance(value, Fault) else value_text(value)
        data.meter.done = data.meter.total * number // file.metadata.num_rows


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _values(column: Any) -> Iterator[Any]:
    try:
        yield from column.to_pylist()
    except UnicodeDecodeError:  # before the first is given; writers do not check
        for value in column:
            try:
                yield value.as_py()
            except UnicodeDecodeError as error:
                yield _not_utf8(error)


_FORMATS: dict[str, Callable[[Bytes, str | None], Iterator[Record]]] = {
    ".csv": partial(_delimited, delimiter=","),
    ".tsv": partial(_delimited, delimiter="\t"),
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_lines,  # as the Hub has it; a single document is no line of JSON and says so
    ".parquet": _parquet,
}


def pick_column(name: str, columns: Sequence[str], texts: Sequence[str], wanted: str | None) -> str:
    """Choose the column that holds the sentences.

    Args:
        name: The corpus, for messages.
        columns: All columns.
        texts: Those that hold text.
        wanted: The one asked for. None takes the one called text, sentence, caption or phrase, in this order and
            whatever its case, or the only one with text.

    Raises:
        CorpusError: There is no such column, twice such a column or no text in it; or none stands out.
    """
    if wanted is not None:
        if wanted not in columns:
            raise CorpusError(
                f"Reading the corpus {name}: it has no column {wanted!r}. It has {_listed(columns)}; give one of them."
            )
        if wanted not in texts:
            raise CorpusError(
                f"Reading the corpus {name}: its column {wanted!r} does not hold text. "
                f"Those that do: {_listed(texts)}; give one of them."
            )
        found = wanted
    else:
        known = (column for wanted in _KNOWN for column in texts if column.lower() == wanted)
        found = next(known, texts[0] if len(texts) == 1 else "")
    if not found:
        raise CorpusError(
            f"Reading the corpus {name}: it is not clear which column holds the sentences. It has {_listed(columns)}, "
            f"with text in {_listed(texts)}; name the column."
        )
    if list(columns).count(found) > 1:
        raise CorpusError(f"Reading the corpus {name}: it has two columns {found!r}. Rename one of them.")
    return found


def value_text(value: object) -> str | Fault:
    """The text that a cell holds, or why it holds none."""
    if not isinstance(value, str):
        return Fault("no string", f"holds {_kind(value)} where a string was expected")
    if "\0" in value:
        return _ZERO_BYTE
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        return Fault("not UTF-8", f"holds half a surrogate pair at character {error.start + 1}")
    return value


def _decoded(line: bytes, limit: int) -> str | Fault:
    if len(line) > limit:  # cut, possibly inside a character
        return Fault("too long", f"has over {limit:,} bytes; a sentence has at most {MAX_CHARACTERS:,} characters")
    if b"\0" in line:
        return _ZERO_BYTE
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        return _not_utf8(error)


_ZERO_BYTE = Fault("zero byte", "holds a zero byte")


def _not_utf8(error: UnicodeDecodeError) -> Fault:
    return Fault("not UTF-8", f"is not UTF-8 (byte 0x{error.object[error.start]:02x} at place {error.start + 1})")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", type(None): "nothing"}
    return names.get(type(value), f"a {type(value).__name__}")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:60]) for name in names[:20])
    return (shown or "no column") + (f" and {len(names) - 20:,} more" if len(names) > 20 else "")
