"""Where a corpus lies, and its bytes: a file, standard input or a URL, decompressed on the way.

Knows nothing of sentences or columns. Bytes come in chunks, so that no file is ever held whole, nor a line that is
too long to be one.
"""

import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pyarrow as pa

from patchlens.errors import CorpusError, MissingExtra, PatchlensError

__all__ = ["Bytes", "Meter", "Place", "find_place", "lines", "translated"]

_CODECS = {".gz": "gzip", ".zst": "zstd"}
_CHUNK = 1 << 18
_HEAD = 1 << 16  # looked at before anything is read: is this text?
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")  # UTF-32's begin or end like them, and are full of zeros
_MAGIC = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst", b"PAR1": ".parquet"}
_ONE_ZERO_IN = 32  # bytes: text in UTF-16 has more zeros, in its spaces and line ends alone
_EXTRAS = {"https": "http", "s3a": "s3"}  # where fsspec's extra is not named like the protocol


@dataclass
class Meter:
    """How far a reader has come, for a progress bar."""

    done: int = 0
    """Bytes read, as they are stored: of a compressed file the compressed ones."""
    total: int = 0
    """Bytes in all; 0 when that is not known."""


@dataclass(frozen=True)
class Place:
    """Somewhere that bytes can be read from."""

    name: str
    """For messages: a path, "standard input", or a URL without password and query."""
    file: str
    """The file's own name, for the sources of sentences."""
    once: bool
    """Whether it can be read only once: standard input, a pipe."""
    connect: Callable[[], Any]
    """Gives a context manager around a binary file."""

    @property
    def codec(self) -> str | None:
        """How the bytes are compressed, by the file's name."""
        return _CODECS.get(PurePosixPath(self.file).suffix.lower())

    @property
    def suffix(self) -> str:
        """The suffix that names the format, in lower case: ".csv" of "Words.CSV.gz"."""
        path = PurePosixPath(self.file)
        return (path.with_suffix("") if self.codec else path).suffix.lower()

    @contextmanager
    def open(self, meter: Meter) -> Iterator["Bytes"]:
        """Open it for one reading.

        Args:
            meter: Kept up to date while reading.

        Raises:
            CorpusError: It cannot be opened.
        """
        with translated(self.name):
            connected = self.connect()
        with connected as file:
            yield Bytes(self, file, meter)


class Bytes:
    """The bytes of an opened place."""

    def __init__(self, place: Place, file: Any, meter: Meter) -> None:
        self.place, self.file, self.meter = place, file, meter
        size = getattr(file, "size", None)  # of fsspec's files; the system's have a number
        meter.total = size if isinstance(size, int) else 0 if place.once else _size(file)
        self._stream = pa.CompressedInputStream(_Counted(file, meter), place.codec) if place.codec else None

    def read(self, size: int) -> bytes:
        """The next bytes, decompressed, at most `size`; none at the end.

        Raises:
            CorpusError: They cannot be read or decompressed.
        """
        with translated(self.place.name):
            if self._stream is None:
                data: bytes = self.file.read(size)
                self.meter.done += len(data)
                return data
            try:
                return bytes(self._stream.read(size))
            except OSError as error:
                if error.errno is not None:
                    raise
                raise CorpusError(
                    f"Reading the corpus {self.place.name}: it is damaged, cut short, or not compressed with "
                    f"{self.place.codec} ({error}). Copy or compress it again."
                ) from error


class _Counted:
    """A file as pyarrow reads it, counting."""

    closed = False

    def __init__(self, file: Any, meter: Meter) -> None:
        self._file, self._meter = file, meter

    def read(self, size: int) -> bytes:
        data: bytes = self._file.read(size)
        self._meter.done += len(data)
        return data

    def close(self) -> None:
        """Left to whoever opened the file."""


def find_place(corpus: str | Path) -> Place:
    """Find where the bytes of a corpus are.

    Args:
        corpus: A path; as a string also a URL that fsspec knows ("s3://…"), or "-" for standard input, with the
            suffixes of what comes in: "-.csv.gz".

    Raises:
        CorpusError: There is no such file, or it is a folder; fsspec does not know the protocol.
        MissingExtra: The protocol needs a library that is not installed.
    """
    if isinstance(corpus, str):
        if re.fullmatch(r"-(\.\w+)*", corpus):
            return Place("standard input", "stdin" + corpus[1:], True, lambda: nullcontext(_standard_input()))
        if re.match(r"[\w.+-]+://", corpus):
            return _url(corpus)
    return _local(Path(corpus))


def _local(path: Path) -> Place:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        found = "there is no such file" if missing else getattr(error, "strerror", None) or str(error)
        hub = f" For a data set of the Hub write hf:{path}." if re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) else ""
        raise CorpusError(
            f"Reading the corpus {str(path)[:200]}: {found}. Check the path; "
            f"to give sentences themselves, pass a list of strings.{hub}"
        ) from error
    if stat.S_ISDIR(mode):
        raise CorpusError(f"Reading the corpus {path}: it is a folder. Expected a file, one sentence a line or row.")
    return Place(_readable(str(path)), _readable(path.name), not stat.S_ISREG(mode), lambda: path.open("rb"))


def _url(url: str) -> Place:
    import fsspec

    parts = urlsplit(url)
    query = "" if parts.scheme in ("http", "https") else parts.query  # a key may be in it; elsewhere it is a name
    name = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, ""))
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        extra = _EXTRAS.get(parts.scheme, parts.scheme)
        raise MissingExtra(
            f"Reading the corpus {name} needs a library that is not installed ({error}). "
            f"Install it with: pip install 'fsspec[{extra}]'"
        ) from error
    except Exception as error:  # each file system raises what its library does
        raise _failure(name, error) from error
    return Place(name, PurePosixPath(parts.path or parts.netloc).name, False, lambda: closing(system.open(path, "rb")))


def _standard_input() -> Any:
    buffer = getattr(sys.stdin, "buffer", None)
    if buffer is None:
        raise CorpusError("Reading the corpus from standard input: there is none here. Give the path of a file.")
    return buffer


def _size(file: Any) -> int:
    return os.fstat(file.fileno()).st_size


def _readable(name: str) -> str:
    """Without the surrogates that stand for bytes of a file's name: tables can hold none."""
    return os.fsencode(name).decode("utf-8", "replace")


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Turn whatever a foreign reader raises inside the block into a CorpusError that names the corpus."""
    try:
        yield
    except PatchlensError:
        raise
    except Exception as error:  # file systems, data sets and pyarrow raise what their libraries do
        raise _failure(name, error) from error


def _failure(name: str, error: Exception) -> CorpusError:
    found = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, FileNotFoundError) and not error.strerror:  # fsspec says nothing but the name
        found = f"not found ({found})"
    return CorpusError(f"Reading the corpus {name} failed: {found.rstrip('.')}. Check its name and that it is whole.")


def lines(data: Bytes, limit: int) -> Iterator[bytes]:
    r"""Split bytes at \n, without a byte order mark.

    Args:
        data: What to read.
        limit: Bytes; of a longer line comes only a beginning, which is longer too. The rest is read past.

    Raises:
        CorpusError: It is binary or UTF-16 from its beginning, or cannot be read.
    """
    chunk = b""
    while len(chunk) < _HEAD and (more := data.read(_CHUNK)):
        chunk += more
    _refuse_binary(data.place.name, chunk[:_HEAD])
    chunk = chunk.removeprefix(_BOM)
    rest = b""
    while chunk:
        parts = chunk.split(b"\n")
        if len(rest) <= limit:
            rest += parts[0]
        if len(parts) > 1:
            yield rest
            yield from parts[1:-1]
            rest = parts[-1]
        chunk = data.read(_CHUNK)
    if rest:
        yield rest


def _refuse_binary(name: str, head: bytes) -> None:
    for magic, suffix in _MAGIC.items():
        if head.startswith(magic):
            raise CorpusError(
                f"Reading the corpus {name}: it begins like a {suffix} file, not like text. "
                f"Give it the suffix {suffix} (standard input: -{suffix}), or unpack it."
            )
    zeros = head.count(0)
    if head.startswith(_UTF16) or zeros * _ONE_ZERO_IN > len(head) or (zeros and not _is_utf8(head)):
        raise CorpusError(
            f"Reading the corpus {name}: it is binary or UTF-16 (its first {len(head):,} bytes hold {zeros:,} zero "
            "bytes). Expected UTF-8 text; convert it, or choose another file."
        )


def _is_utf8(head: bytes) -> bool:
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4  # a character that the cut went through
    return True
