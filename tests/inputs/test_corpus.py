import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from patchlens.errors import CorpusError
from patchlens.inputs.corpus import MAX_CHARACTERS, Sentence, Skipped, read_corpus


def written(tmp_path: Path, content: bytes, name: str = "words.txt") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def test_a_file_one_sentence_a_line(tmp_path: Path) -> None:
    path = written(
        tmp_path, b"\xef\xbb\xbfA cat.\r\n\n   \n  A dog. \n\xd7\xa9\xd7\x9c\xd7\x95\xd7\x9d\n\xf0\x9f\x99\x82"
    )
    expected = [
        Sentence("A cat.", "words.txt:1"),
        Sentence("A dog.", "words.txt:4"),
        Sentence("שלום", "words.txt:5"),
        Sentence("🙂", "words.txt:6"),
    ]
    corpus = read_corpus(path)
    assert list(corpus) == expected
    assert list(corpus) == expected  # a file can be read again
    assert corpus.skipped == {}
    assert corpus.describe_skipped() == ""
    assert list(read_corpus(str(path))) == expected


def test_sentences_from_python_are_taken_one_at_a_time() -> None:
    endless = (text for _ in iter(int, 1) for text in ("A cat.", " ", "A dog."))
    read = iter(read_corpus(endless))
    assert [next(read) for _ in range(3)] == [
        Sentence("A cat.", "corpus:1"),
        Sentence("A dog.", "corpus:3"),
        Sentence("A cat.", "corpus:4"),
    ]


def test_what_can_be_read_only_once_says_so() -> None:
    twice = read_corpus(("A cat.",))
    assert list(twice) == list(twice)
    once = read_corpus(text for text in ("A cat.", "A dog."))
    assert len(list(once)) == 2
    with pytest.raises(CorpusError, match=r"only once. Save it as a file, or pass a list"):
        list(once)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"   \n\t\n", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["words.txt", "words.csv", "words.jsonl"])
def test_an_empty_file(tmp_path: Path, content: bytes, name: str) -> None:
    with pytest.raises(CorpusError, match="no sentence"):
        list(read_corpus(written(tmp_path, content, name)))


def test_no_sentences() -> None:
    with pytest.raises(CorpusError, match="no sentence"):
        list(read_corpus([]))


def test_sentences_from_python_have_no_columns() -> None:
    with pytest.raises(CorpusError, match="given from Python have none"):
        read_corpus(["A cat."], column="text")


def test_items_that_are_not_sentences() -> None:
    with pytest.raises(CorpusError, match="item 2 is int"):
        list(read_corpus(item for item in ("A cat.", 7)))
    with pytest.raises(CorpusError, match="item 1 holds half a surrogate"):
        list(read_corpus(["A \ud800 cat."]))
    with pytest.raises(CorpusError, match=r"corpus:1 has 1,000,000 characters; a sentence has at most 100,000"):
        list(read_corpus(["a" * 1_000_000], strict=False))


BAD = {
    "not UTF-8": (b"K\xe4se", r"words\.txt:2 is not UTF-8 \(byte 0xe4 at place 2\)"),
    "zero byte": (b"A \0 cat.", r"words\.txt:2 holds a zero byte"),
    "too long": (b"a" * (MAX_CHARACTERS + 1), r"words\.txt:2 has 100,001 characters; .* at most 100,000"),
}


@pytest.mark.parametrize("why", BAD)
def test_a_bad_line_is_skipped_and_counted_unless_strict(tmp_path: Path, why: str) -> None:
    line, told = BAD[why]
    good = b"A cat sits on a mat.\n"
    path = written(tmp_path, good + line + b"\n" + good * 9 + line + b"\n" + good)
    corpus = read_corpus(path)
    assert [sentence.source for sentence in corpus] == [f"words.txt:{n}" for n in (1, *range(3, 12), 13)]
    assert (corpus.skipped[why].count, corpus.skipped[why].first) == (2, "words.txt:2")
    assert corpus.skipped.keys() == {why}
    assert corpus.describe_skipped().startswith(f"Skipped: 2 {why} (first: words.txt:2 ")
    list(corpus)
    assert corpus.skipped[why].count == 2  # of the latest reading, not of both

    read = iter(read_corpus(path, strict=True))
    assert next(read).text == "A cat sits on a mat."
    with pytest.raises(CorpusError, match=told):
        next(read)


@pytest.mark.parametrize("character", ["a", "猫", "🙂"])
def test_a_line_of_a_million_characters(tmp_path: Path, character: str) -> None:
    corpus = read_corpus(written(tmp_path, f"A cat.\n{character * 1_000_000}\nA dog.\n".encode()))
    assert [sentence.source for sentence in corpus] == ["words.txt:1", "words.txt:3"]
    assert corpus.skipped["too long"].count == 1


def test_a_line_of_just_the_length_allowed(tmp_path: Path) -> None:
    text = "🙂" * MAX_CHARACTERS
    path = written(tmp_path, b"\xef\xbb\xbf" + text.encode() + b"\r\n")
    assert next(iter(read_corpus(path, strict=True))).text == text


def test_only_bad_lines(tmp_path: Path) -> None:
    path = written(tmp_path, b"K\xe4se\n" * 3 + b"\n" + b"a" * 200_000)
    with pytest.raises(CorpusError, match=r"no sentence. Skipped: 3 not UTF-8 \(first: words.txt:1 .*, 1 too long"):
        list(read_corpus(path))


def test_another_encoding_is_given_up_early(tmp_path: Path) -> None:
    path = written(tmp_path, b"K\xe4se\nBrot\n" * 600 + b"K\xe4se\n" * 100_000)
    corpus = read_corpus(path)
    with pytest.raises(CorpusError, match=r"wrong encoding\. .* the first words\.txt:1\. Convert"):
        list(corpus)
    assert corpus.skipped["not UTF-8"].count == 501
    path.write_bytes(b"K\xe4se\nBrot\nWein\n" * 1000)
    assert len(list(corpus)) == 2000
    assert corpus.skipped == {
        "not UTF-8": Skipped(1000, "words.txt:1", "is not UTF-8 (byte 0xe4 at place 2)"),
    }
    path.write_bytes(b"Brot\n" + b"K\xe4se\n" * 998)  # a short file is read to its end
    assert len(list(corpus)) == 1


def test_what_is_not_the_format_it_says_is_given_up_early(tmp_path: Path) -> None:
    corpus = read_corpus(written(tmp_path, b"A cat.\n" * 5000, "words.jsonl"))
    with pytest.raises(
        CorpusError, match=r"none of its first 1,000 lines can be used. Skipped: 1,000 not JSON .*suffix"
    ):
        list(corpus)
    corpus = read_corpus(written(tmp_path, b'{"label": "A cat."}\n' * 5000, "words.jsonl"), column="text")
    with pytest.raises(CorpusError, match=r"words.jsonl:1 has no 'text'; it has 'label'.* the column"):
        list(corpus)


def test_progress_in_bytes(tmp_path: Path) -> None:
    path = written(tmp_path, (b"A cat. " * 100 + b"\n") * 2_000)
    corpus = read_corpus(path)
    assert corpus.total_bytes == 0
    read = iter(corpus)
    next(read)
    assert 0 < corpus.done_bytes < corpus.total_bytes == path.stat().st_size
    list(read)
    assert corpus.done_bytes == corpus.total_bytes
    python = read_corpus(["A cat."])
    assert (len(list(python)), python.done_bytes, python.total_bytes) == (1, 0, 0)


class Endless:
    """A file that makes up its bytes as they are read."""

    def __init__(self, chunk: bytes, size: int) -> None:
        self.chunk, self.left = chunk, size

    def read(self, size: int) -> bytes:
        assert size >= len(self.chunk)
        self.left -= len(self.chunk)
        return self.chunk if self.left >= 0 else b""


class StandardInput:
    def __init__(self, buffer: Endless) -> None:
        self.buffer = buffer


def peak(monkeypatch: pytest.MonkeyPatch, chunk: bytes, size: int, **options: bool) -> tuple[int, int]:
    monkeypatch.setattr("sys.stdin", StandardInput(Endless(chunk, size)))
    corpus = read_corpus("-", **options)
    tracemalloc.start()
    try:
        count = sum(1 for _ in corpus)
        return count, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (b"a" * 999 + b"\n") * 100
    small, small_peak = peak(monkeypatch, lines, 1_000_000)
    large, large_peak = peak(monkeypatch, lines, 10_000_000)
    assert (small, large) == (1_000, 10_000)
    assert large_peak < 1.05 * small_peak < 4_000_000


def test_a_huge_line_is_never_held_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def huge() -> Iterator[bytes]:
        yield b"A cat.\n"
        yield from (b"a" * 100_000 for _ in range(500))  # 50 MB
        yield b"\nA dog.\n"

    pieces = huge()

    class Pieces(Endless):
        def read(self, size: int) -> bytes:
            return next(pieces, b"")

    monkeypatch.setattr("sys.stdin", StandardInput(Pieces(b"", 0)))
    corpus = read_corpus("-")
    tracemalloc.start()
    try:
        assert [sentence.source for sentence in corpus] == ["stdin:1", "stdin:3"]
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()
    assert corpus.skipped["too long"].first == "stdin:2"
