import gzip
import io
import os
import threading
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from patchlens.errors import CorpusError, MissingExtra
from patchlens.inputs.corpus import Sentence, read_corpus
from patchlens.inputs.corpus_bytes import Meter, find_place, lines

CAT, DOG = b"A cat.\n", b"A dog.\n"


def written(tmp_path: Path, content: bytes, name: str) -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


PACK = {".gz": gzip.compress, ".zst": zstd}


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such file"):
        read_corpus(tmp_path / "absent.txt")
    with pytest.raises(CorpusError, match="list of strings"):
        read_corpus("A sentence instead of a path.")
    with pytest.raises(CorpusError, match="write hf:owner/name"):
        read_corpus("owner/name")


def test_names_that_the_disk_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("A long sentence. " * 20, tmp_path / ("a" * 300)):
        with pytest.raises(CorpusError, match="File name too long"):
            read_corpus(name)
    with pytest.raises(CorpusError, match="null byte"):
        read_corpus("a\0b")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(CorpusError, match="Permission denied"):
        read_corpus(tmp_path / "words.txt")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="is a folder"):
        read_corpus(tmp_path)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = written(tmp_path, CAT, "words.txt")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CorpusError, match=r"words\.txt failed: Permission denied"):
        read_corpus(path)


def test_a_file_that_fails_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = read_corpus(written(tmp_path, CAT, "words.txt"))

    class Failing(io.BytesIO):
        size = 7

        def read(self, _: int | None = None) -> bytes:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", lambda *_: Failing())
    with pytest.raises(CorpusError, match=r"words\.txt failed: Input/output error"):
        list(corpus)


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = written(tmp_path, CAT, os.fsdecode(b"k\xe4se.txt"))
    assert list(read_corpus(path)) == [Sentence("A cat.", "k�se.txt:1")]


@pytest.mark.parametrize("suffix", PACK)
def test_compressed_files(tmp_path: Path, suffix: str) -> None:
    pack = PACK[suffix]
    path = written(tmp_path, pack(CAT * 9_000) + pack(DOG), f"Words.TXT{suffix.upper()}")  # joined, as cat does
    corpus = read_corpus(path)
    sentences = list(corpus)
    assert len(sentences) == 9_001
    assert sentences[-1] == Sentence("A dog.", f"{path.name}:9001")
    assert corpus.done_bytes == corpus.total_bytes == path.stat().st_size
    table = written(tmp_path, pack(b"id,text\n1,A cat.\n"), f"words.csv{suffix}")
    assert list(read_corpus(table)) == [Sentence("A cat.", f"words.csv{suffix}:2")]


@pytest.mark.parametrize("suffix", PACK)
def test_damaged_archives(tmp_path: Path, suffix: str) -> None:
    content = b"".join(b"%x\n" % (7**number % 2**4000) for number in range(1000, 2500))
    whole = PACK[suffix](content)
    for broken in (whole[: len(whole) // 2], whole[:-1], whole + b"more"):
        corpus = read_corpus(written(tmp_path, broken, f"words.txt{suffix}"))  # the beginning is whole
        with pytest.raises(CorpusError, match=r"damaged, cut short, or not compressed with"):
            list(corpus)
    with pytest.raises(CorpusError, match="damaged"):
        read_corpus(written(tmp_path, CAT, f"words.txt{suffix}"))


@pytest.mark.parametrize("suffix", PACK)
def test_an_archive_that_does_not_say_so(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path, PACK[suffix](CAT), "words.txt")
    with pytest.raises(CorpusError, match=rf"begins like a \{suffix} file.*standard input: -\{suffix}"):
        read_corpus(path)


@pytest.mark.parametrize(
    "content",
    [
        (CAT * 20).decode().encode("utf-16"),
        (CAT * 20).decode().encode("utf-16-be"),
        "В траве сидел кузнечик\n".encode("utf-16-le"),
        (CAT * 20).decode().encode("utf-32"),
        b"PK\x03\x04\x00\x00binary",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        bytes(range(256)) * 300,
    ],
)
@pytest.mark.parametrize("name", ["words.txt", "words.csv", "words.jsonl"])
def test_binary_files_are_refused_at_once(tmp_path: Path, content: bytes, name: str) -> None:
    with pytest.raises(CorpusError, match="binary or UTF-16"):
        read_corpus(written(tmp_path, content, name))


def test_one_zero_byte_does_not_make_a_file_binary(tmp_path: Path) -> None:
    """Neither does a character that the end of the first look goes through."""
    path = written(tmp_path, b"A \0 cat.\n" + b"a" + "ä".encode() * 40_000 + b"\n", "words.txt")
    corpus = read_corpus(path)
    assert [sentence.source for sentence in corpus] == ["words.txt:2"]
    assert corpus.skipped["zero byte"].first == "words.txt:1"


def standard_input(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    standard_input(monkeypatch, CAT + b"\n" + DOG)
    corpus = read_corpus("-")
    assert list(corpus) == [Sentence("A cat.", "stdin:1"), Sentence("A dog.", "stdin:3")]
    assert (corpus.done_bytes, corpus.total_bytes) == (15, 0)
    with pytest.raises(CorpusError, match="standard input again: it can be read only once"):
        list(corpus)
    standard_input(monkeypatch, gzip.compress(b"id,text\n1,A cat.\n"))
    assert list(read_corpus("-.csv.gz")) == [Sentence("A cat.", "stdin.csv.gz:2")]


def test_standard_input_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    standard_input(monkeypatch, CAT)
    with pytest.raises(CorpusError, match="read as text, which has no columns"):
        list(read_corpus("-", column="text"))
    with pytest.raises(CorpusError, match="Parquet cannot be read from a pipe"):
        list(read_corpus("-.parquet"))
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(CorpusError, match="there is none here"):
        list(read_corpus("-"))


def test_a_pipe_is_not_touched_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pipe.csv"
    os.mkfifo(path)
    corpus = read_corpus(path)  # would wait for a writer
    writer = threading.Thread(target=path.write_bytes, args=(b"text\nA cat.\n",))
    writer.start()
    assert list(corpus) == [Sentence("A cat.", "pipe.csv:2")]
    writer.join()
    with pytest.raises(CorpusError, match="only once"):
        list(corpus)


def test_a_url() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/folder/words.csv.gz", gzip.compress(b"id,text\n1,A cat.\n"))
    try:
        corpus = read_corpus("memory://folder/words.csv.gz")
        assert list(corpus) == list(corpus) == [Sentence("A cat.", "words.csv.gz:2")]
        assert corpus.done_bytes == corpus.total_bytes > 0
        with pytest.raises(CorpusError, match=r"memory://folder/absent\.txt failed: not found"):
            read_corpus("memory://folder/absent.txt")
    finally:
        memory.rm("/folder", recursive=True)


def test_urls_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CorpusError, match="Protocol not known: nowhere"):
        read_corpus("nowhere://words.txt")

    def refuse(url: str) -> None:
        raise ImportError("Install it")

    monkeypatch.setattr(fsspec.core, "url_to_fs", refuse)
    with pytest.raises(MissingExtra, match=r"s3://bucket/words\.txt needs .*pip install 'fsspec\[s3\]'"):
        read_corpus("s3://bucket/words.txt")
    with pytest.raises(MissingExtra, match=r"corpus https://host/words\.txt needs .*'fsspec\[http\]'"):
        read_corpus("https://me:password@host/words.txt?key=secret#here")


def test_lines_whatever_the_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"\xef\xbb\xbfone\n\ntwo\r\n" + b"x" * 100 + b"\nlast"
    place = find_place(written(tmp_path, content, "words.txt"))
    for chunk in (1, 2, 3, 7, 1000):
        monkeypatch.setattr("patchlens.inputs.corpus_bytes._CHUNK", chunk)
        monkeypatch.setattr("patchlens.inputs.corpus_bytes._HEAD", 5)
        with place.open(Meter()) as data:
            *short, long, last = lines(data, limit=20)
        assert (short, last) == ([b"one", b"", b"two\r"], b"last")
        assert len(long) > 20
        assert set(long) == {ord("x")}


@pytest.mark.parametrize("name", ["words.txt", "words.txt.gz"])
def test_a_foreign_file_system_that_fails_on_the_way(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    class Failing:
        size = 7

        def read(self, _: int) -> bytes:
            raise ValueError("the session has expired")

        def close(self) -> None:
            closed.append(self)

    class System:
        def open(self, path: str, mode: str) -> Failing:
            return Failing()

    closed: list[Failing] = []
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url: (System(), url))
    with pytest.raises(CorpusError, match=rf"odd://host/{name} failed: the session has expired\. Check"):
        read_corpus(f"odd://host/{name}")
    assert len(closed) == 1
