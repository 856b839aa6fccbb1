import json
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from patchlens.errors import CorpusError
from patchlens.inputs.corpus import Sentence, read_corpus


def written(tmp_path: Path, content: str | bytes, name: str) -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def texts(path: Path, **options: Any) -> list[tuple[str, int]]:
    found = list(read_corpus(path, **options))
    assert {sentence.source.rpartition(":")[0] for sentence in found} == {path.name}
    return [(sentence.text, int(sentence.source.rpartition(":")[2])) for sentence in found]


def counted(path: Path, **options: Any) -> tuple[list[int], dict[str, tuple[int, str]]]:
    corpus = read_corpus(path, **options)
    numbers = [int(sentence.source.rpartition(":")[2]) for sentence in corpus]
    return numbers, {why: (each.count, each.first.rpartition(":")[2]) for why, each in corpus.skipped.items()}


def test_anything_unknown_is_text(tmp_path: Path) -> None:
    for name in ("words", "words.md", "words.2024", ".txt"):
        assert texts(written(tmp_path, "id,text\n", name)) == [("id,text", 1)]
    with pytest.raises(CorpusError, match=r"read as text, which has no columns, but column is 'text'"):
        read_corpus(written(tmp_path, "A cat.", "words.txt"), column="text")


# CSV and TSV


def test_csv_with_quoted_newlines(tmp_path: Path) -> None:
    content = '\ufeffid,text\r\n1,"A cat,\r\non a ""mat""."\r\n\r\n2,A dog.\r\n3,  \r\n4,"A 猫"'
    path = written(tmp_path, content, "words.csv")
    assert texts(path) == [('A cat,\r\non a "mat".', 2), ("A dog.", 5), ("A 猫", 7)]


def test_tsv(tmp_path: Path) -> None:
    assert texts(written(tmp_path, "id\tphrase\n1\ta cat, red\n", "words.TSV")) == [("a cat, red", 2)]


@pytest.mark.parametrize(
    ("header", "column", "expected"),
    [
        ("a,text,sentence", None, 1),
        ("a,phrase,caption", None, 2),
        ("Caption,a,b", None, 0),
        ("a, text ,b", None, 1),
        ("a,b,text", "b", 1),
        ("a,2,text", "a", 0),
    ],
)
def test_which_column(tmp_path: Path, header: str, column: str | None, expected: int) -> None:
    assert texts(written(tmp_path, f"{header}\nred,blue,green\n", "words.csv"), column=column) == [
        (("red", "blue", "green")[expected], 2)
    ]


def test_a_number_is_a_column_of_a_file_without_a_header(tmp_path: Path) -> None:
    path = written(tmp_path, "text,A cat.\nid,A dog.\n", "words.csv")
    assert texts(path, column="2") == texts(path, column=2) == [("A cat.", 1), ("A dog.", 2)]
    for column in ("0", "3"):
        with pytest.raises(CorpusError, match=f"no column {column}. Columns are counted from 1, .* has 2"):
            read_corpus(path, column=column)


@pytest.mark.parametrize(
    ("content", "column", "told"),
    [
        ("id,label\n1,A cat.\n", None, r"not clear which column .* 'id', 'label'.*first line is data"),
        ("id,label\n1,A cat.\n", "text", r"no column 'text'. It has 'id', 'label'.*first line is data"),
        ("text,text\nA cat.,A dog.\n", None, "two columns 'text'"),
        ("A cat.\nA dog.\n", None, r"only column begins with 'A cat\.'.*column's name.*give 1, the column's number"),
        ("id;text\n1;A cat.\n", None, r"only column begins with 'id;text'"),
        ('"id"x,text\n', None, r"its first line, words\.csv:1, is not CSV"),
    ],
)
def test_columns_are_never_guessed(tmp_path: Path, content: str, column: str | None, told: str) -> None:
    with pytest.raises(CorpusError, match=told):
        read_corpus(written(tmp_path, content, "words.csv"), column=column)


def test_the_only_column_by_name_or_number(tmp_path: Path) -> None:
    path = written(tmp_path, "A cat.\nA dog.\n", "words.csv")
    assert texts(path, column="A cat.") == [("A dog.", 2)]
    assert texts(path, column="1") == [("A cat.", 1), ("A dog.", 2)]
    assert texts(written(tmp_path, "Sentence\nA dog.\n", "words.csv")) == [("A dog.", 2)]


def test_rows_that_cannot_be_used(tmp_path: Path) -> None:
    rows = [
        b"id,text",
        b"1,A cat.",
        b"2",  # line 3
        b"3,A cat, red.",
        b'"4"x,A cat.',  # 5
        b"5,K\xe4se",
        b'6,"K\xe4se',  # 7: the broken line opens a quote that the next one closes
        b'and bread"',
        b"7," + b"a" * 100_001,
        b"8,A dog.",  # 10
        b'9,"A bird" that',
        b"10,A fish.",
        b"",
    ]
    numbers, skipped = counted(written(tmp_path, b"\n".join(rows), "words.csv"))
    assert numbers == [2, 10, 12]
    assert skipped == {
        "wrong number of fields": (2, "3"),
        "not CSV": (2, "5"),
        "not UTF-8": (2, "6"),
        "too long": (1, "9"),
    }
    with pytest.raises(CorpusError, match=r"words\.csv:3 has 1 fields; the first line has 2\. Correct it"):
        list(read_corpus(tmp_path / "words.csv", strict=True))


def test_a_broken_record_counts_all_its_lines(tmp_path: Path) -> None:
    path = written(tmp_path, 'id,text\n1,"A cat.\n2,A dog.\n3,"A bird."\n4,A fish.\n', "words.csv")
    assert counted(path) == ([5], {"not CSV": (3, "2")})


def test_a_quote_that_is_never_closed(tmp_path: Path) -> None:
    path = written(tmp_path, 'id,text\n1,A cat.\n2,"A dog.\n3,A bird.\n', "words.csv")
    with pytest.raises(CorpusError, match=r"begins at words\.csv:3 is not closed by line 4"):
        list(read_corpus(path))
    path = written(tmp_path, 'id,text\n1,A cat.\n2,"A dog.\n' + f"3,{'A bird. ' * 100}\n" * 6_000 + '4,"', "words.csv")
    with pytest.raises(CorpusError, match=r"begins at words\.csv:3 is not closed by line 5,\d\d\d"):
        list(read_corpus(path))


def test_another_column_may_be_long(tmp_path: Path) -> None:
    page = "<p>" * 5_000 + "\n" + "<p>\n" * 5_000 + "<p>" * 40_000
    path = written(tmp_path, f'html,text\n"{page}",A cat.\n"",A dog.\n', "words.csv")
    assert texts(path) == [("A cat.", 2), ("A dog.", 5_004)]


def test_a_row_of_ten_megabytes(tmp_path: Path) -> None:
    path = written(tmp_path, "id,text\n1,A cat.\n2," + "a" * 10_000_000 + "\n3,A dog.\n", "words.csv")
    with pytest.raises(CorpusError, match=r"words\.csv:3 has over 4,194,304 bytes"):
        list(read_corpus(path, strict=True))
    assert counted(path) == ([2, 4], {"too long": (1, "3")})


# JSON lines


def json_lines(tmp_path: Path, values: Iterable[object], name: str = "words.jsonl") -> Path:
    return written(tmp_path, "".join(json.dumps(value) + "\n" for value in values), name)


@pytest.mark.parametrize("name", ["words.jsonl", "words.ndjson", "words.json"])
def test_json_strings_and_objects(tmp_path: Path, name: str) -> None:
    assert texts(json_lines(tmp_path, ["A cat.", " ", "A 猫"], name)) == [("A cat.", 1), ("A 猫", 3)]
    assert texts(json_lines(tmp_path, [{"id": 1, "label": "A cat."}], name)) == [("A cat.", 1)]
    assert texts(json_lines(tmp_path, [{"a": "x", "Text": "A cat."}], name)) == [("A cat.", 1)]
    path = json_lines(tmp_path, [{"a": "A dog.", "text": "A cat."}, {"b": 1, "a": "A bird."}], name)
    assert texts(path, column="a") == [("A dog.", 1), ("A bird.", 2)]


def test_json_lines_that_cannot_be_used(tmp_path: Path) -> None:
    lines = [
        b'{"text": "A cat."}',
        b'{"text": "A cat."',  # line 2
        b"[" * 100_000,
        b'{"text": 7}',  # 4
        b'{"text": null}',
        b'{"words": "A cat."}',  # 6
        b'"A cat."',
        b'{"text": "A \\ud800 cat."}',  # 8
        b'{"text": "K\xe4se"}',
        b'{"text": "A \\u0000 cat."}',  # 10
        b'{"text": "' + b"a" * 10_000_000 + b'"}',
        b'{"text": "' + b"a" * 1_000_000 + b'"}',  # 12
        b"\t",
        b'{"text": "A \\ud83d\\ude42 dog."}',  # 14
    ]
    path = written(tmp_path, b"\n".join(lines), "words.jsonl")
    assert counted(path) == (
        [1, 14],
        {
            "not JSON": (2, "2"),
            "no string": (2, "4"),
            "no such column": (2, "6"),
            "not UTF-8": (2, "8"),
            "zero byte": (1, "10"),
            "too long": (2, "11"),
        },
    )
    with pytest.raises(CorpusError, match=r"words\.jsonl:2 is not JSON \(Expecting"):
        list(read_corpus(path, strict=True))


def test_json_without_a_clear_column(tmp_path: Path) -> None:
    for value in ({"a": "x", "b": "y"}, {"a": 1}, {}):
        with pytest.raises(CorpusError, match=r"not clear which column"):
            read_corpus(json_lines(tmp_path, [value]))


def test_a_json_document_is_not_json_lines(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps([{"text": "A cat."}] * 3, indent=1), "words.json")
    with pytest.raises(CorpusError, match=r"no sentence. Skipped: .* not JSON \(first: words.json:1 "):
        list(read_corpus(path))
    path = written(tmp_path, json.dumps(["A cat.", "A dog."]), "words.json")
    with pytest.raises(CorpusError, match=r"1 no string \(first: words.json:1 holds a list where a string"):
        list(read_corpus(path))


# Parquet


def parquet(tmp_path: Path, columns: dict[str, Any], **options: Any) -> Path:
    path = tmp_path / "words.parquet"
    pq.write_table(pa.table(columns), path, **options)
    return path


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_parquet(tmp_path: Path, kind: Any) -> None:
    path = parquet(tmp_path, {"id": [1, 2, 3, 4], "label": pa.array(["A cat.", None, " ", "A 猫"]).cast(kind)})
    assert counted(path) == ([1, 4], {"no string": (1, "2")})
    assert texts(path, column="label") == [("A cat.", 1), ("A 猫", 4)]


def test_parquet_columns(tmp_path: Path) -> None:
    path = parquet(tmp_path, {"id": [1], "a": ["A cat."], "b": ["A dog."], "dotted.name": ["A bird."]})
    assert texts(path, column="dotted.name") == [("A bird.", 1)]
    with pytest.raises(CorpusError, match=r"not clear which column .* with text in 'a', 'b'"):
        read_corpus(path)
    with pytest.raises(CorpusError, match=r"no column 'text'. It has 'id', 'a', 'b'"):
        read_corpus(path, column="text")
    with pytest.raises(CorpusError, match=r"column 'id' does not hold text. Those that do: 'a', 'b'"):
        read_corpus(path, column="id")


def test_parquet_texts_that_are_not_utf8(tmp_path: Path) -> None:
    raw = pa.array([b"A cat.", b"K\xe4se", b"A dog."], pa.binary())
    path = parquet(tmp_path, {"text": pa.Array.from_buffers(pa.string(), 3, raw.buffers())})
    assert counted(path) == ([1, 3], {"not UTF-8": (1, "2")})


def test_damaged_parquet(tmp_path: Path) -> None:
    path = parquet(tmp_path, {"text": [f"A cat {number}." for number in range(10_000)]})
    whole = path.read_bytes()
    for broken in (b"", whole[:1000], whole[:-1], b"A cat.\n" * 50):
        path.write_bytes(broken)
        with pytest.raises(CorpusError, match=r"words\.parquet failed: "):
            read_corpus(path)
    path.write_bytes(whole[:4] + b"\xff" * 2000 + whole[2004:])
    with pytest.raises(CorpusError, match=r"words\.parquet failed: "):
        list(read_corpus(path))
    packed = path.rename(tmp_path / "words.parquet.gz")
    with pytest.raises(CorpusError, match=r"Parquet cannot be read .* inside an archive"):
        read_corpus(packed)


def test_parquet_is_not_held_whole(tmp_path: Path) -> None:
    """One row group of 20 MB, a page at a time, and of the other column nothing."""
    texts = [f"{number:0999d}" for number in range(20_000)]
    path = parquet(tmp_path, {"text": texts, "id": texts}, compression="none", use_dictionary=False)
    del texts
    assert pq.ParquetFile(path).num_row_groups == 1
    corpus = read_corpus(path)
    before, peak = pa.total_allocated_bytes(), 0
    tracemalloc.start()  # pages come through a Python file, and are decoded by Arrow
    try:
        for number, sentence in enumerate(corpus):
            if number % 500 == 0:
                peak = max(peak, pa.total_allocated_bytes() - before)
                assert sentence == Sentence(f"{number:0999d}", f"words.parquet:{number + 1}")
                assert corpus.done_bytes <= corpus.total_bytes == path.stat().st_size
        assert number == 19_999
        assert tracemalloc.get_traced_memory()[1] + peak < 10_000_000
    finally:
        tracemalloc.stop()
    assert corpus.done_bytes == corpus.total_bytes
