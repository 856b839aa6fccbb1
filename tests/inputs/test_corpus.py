from pathlib import Path

import pytest

from patchlens.errors import CorpusError
from patchlens.inputs.corpus import MAX_CHARACTERS, Sentence, read_corpus


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    return path


def test_a_file_one_sentence_a_line(tmp_path: Path) -> None:
    path = written(tmp_path, b"\xef\xbb\xbfA cat.\r\n\n   \n  A dog. \n\xd7\xa9\xd7\x9c\xd7\x95\xd7\x9d")
    expected = [Sentence("A cat.", "words.txt:1"), Sentence("A dog.", "words.txt:4"), Sentence("שלום", "words.txt:5")]
    assert list(read_corpus(path)) == expected
    assert list(read_corpus(str(path))) == expected


def test_sentences_from_python_are_taken_one_at_a_time() -> None:
    endless = (text for _ in iter(int, 1) for text in ("A cat.", " ", "A dog."))
    read = read_corpus(endless)
    assert [next(read) for _ in range(3)] == [
        Sentence("A cat.", "corpus:1"),
        Sentence("A dog.", "corpus:3"),
        Sentence("A cat.", "corpus:4"),
    ]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"   \n\t\n", b"\xef\xbb\xbf"])
def test_an_empty_file(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(CorpusError, match="no sentence"):
        list(read_corpus(written(tmp_path, content)))


def test_no_sentences() -> None:
    with pytest.raises(CorpusError, match="no sentence"):
        list(read_corpus([]))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such file"):
        read_corpus(tmp_path / "absent.txt")
    with pytest.raises(CorpusError, match="list of strings"):
        read_corpus("A sentence instead of a path.")


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

    path = written(tmp_path, b"A cat.")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CorpusError, match="Permission denied"):
        list(read_corpus(path))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"A cat.\nK\xe4se\n", r"line 2 is not UTF-8 \(byte 0xe4 at place 2\)"),
        ("A cat.\n".encode("utf-16"), "line 1"),
        (b"PK\x03\x04\x00\x00binary", "line 1 holds a zero byte"),
    ],
)
def test_not_utf8(tmp_path: Path, content: bytes, told: str) -> None:
    with pytest.raises(CorpusError, match=told):
        list(read_corpus(written(tmp_path, content)))


@pytest.mark.parametrize("character", ["a", "猫", "🙂"])
def test_a_line_of_a_million_characters(tmp_path: Path, character: str) -> None:
    path = written(tmp_path, f"A cat.\n{character * 1_000_000}\nA dog.\n".encode())
    read = read_corpus(path)
    assert next(read).text == "A cat."
    with pytest.raises(CorpusError, match=r"words\.txt:2 has .* at most 100,000"):
        next(read)
    with pytest.raises(CorpusError, match="corpus:1 has 1,000,000"):
        next(read_corpus([character * 1_000_000]))


def test_a_line_of_just_the_length_allowed(tmp_path: Path) -> None:
    text = "🙂" * MAX_CHARACTERS
    assert next(read_corpus(written(tmp_path, b"\xef\xbb\xbf" + text.encode() + b"\r\n"))).text == text


def test_items_that_are_not_sentences() -> None:
    with pytest.raises(CorpusError, match="item 2 is int"):
        list(read_corpus(item for item in ("A cat.", 7)))
    with pytest.raises(CorpusError, match="item 1 holds half a surrogate"):
        list(read_corpus(["A \ud800 cat."]))
