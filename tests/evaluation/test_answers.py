import json
import os
import resource
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from patchlens.errors import StorageError, StudyError
from patchlens.evaluation.answers import open_answers, read_answers
from patchlens.evaluation.verdict import Answer

IDENTITY = {"judge": "endpoint", "model": "m", "temperature": 0.0}


def answer(number: int, **changes: object) -> Answer:
    exchanges = ({"request": {"text": f"question {number} \n\u2028 ü"}, "status": 200, "body": "\ud83d"},)
    fields = {"content": ["concrete", "unrelated"], "exchanges": exchanges, "input_tokens": number, "seconds": 0.5}
    return Answer(f"q{number}", **{**fields, **changes})  # type: ignore[arg-type]


def filled(path: Path, number: int = 3) -> bytes:
    with open_answers(path, IDENTITY) as answers:
        for each in range(number):
            answers.add(answer(each))
    return path.read_bytes()


def test_answers_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answers.jsonl"
    undecided = answer(9, content=None, undecided="refused", detail="it would not")
    with open_answers(path, IDENTITY) as answers:
        assert len(answers) == 0
        answers.add(answer(1))
        answers.add(undecided)
        assert read_answers(path) == (IDENTITY, {"q1": answer(1), "q9": undecided})  # on the disk at once
    with open_answers(path, IDENTITY) as answers:
        assert answers.get("q1") == answer(1)
        assert answers.get("q2") is None
        assert answers.values() == [answer(1), undecided]
        assert len(answers) == 2


def test_the_latest_answer_counts_and_the_earlier_ones_stay(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    failed = answer(1, content=None, undecided="failed")
    with open_answers(path, IDENTITY) as answers:
        answers.add(failed)
        answers.add(answer(2))
        answers.add(answer(1))
    with open_answers(path, IDENTITY) as answers:
        assert answers.get("q1") == answer(1)
        assert len(answers) == 2
        assert answers.history() == [failed, answer(2), answer(1)]
    assert read_answers(path)[1]["q1"] == answer(1)


def test_wherever_the_last_line_is_cut_the_rest_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    whole = filled(path)
    header, *lines = whole.splitlines(keepends=True)
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        kept = sum(cut >= len(header) + sum(map(len, lines[: number + 1])) for number in range(3))
        assert list(read_answers(path)[1]) == [f"q{number}" for number in range(kept)]
        with open_answers(path, IDENTITY) as answers:
            assert len(answers) == kept
            for number in range(kept, 3):
                answers.add(answer(number))
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "damage",
    [b"{}\n", b"\n", b"null\n", b'{"question": "q1"\n', b"\xff\n", b'{"question":"q1","content":1,"undecided":"no"}\n'],
)
def test_damage_elsewhere_names_the_line(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "answers.jsonl"
    lines = filled(path).splitlines(keepends=True)
    for number in (1, 2, 3):
        whole = b"".join([*lines[:number], damage, *lines[number + 1 :]])
        path.write_bytes(whole)
        for use in (lambda: read_answers(path), lambda: open_answers(path, IDENTITY).__enter__()):
            with pytest.raises(StudyError, match=rf"answers\.jsonl: line {number + 1} is not an answer .*damaged"):
                use()
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "text", ["hello", "hello\n", '{"format": 2, "identity": {}}\n', '{"format": 1}\n', "[1]\n", '{"a": 1}']
)
def test_a_foreign_file_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text)
    with pytest.raises(StudyError, match="does not begin as such a file"), open_answers(path, IDENTITY):
        pass
    assert path.read_text() == text


def test_another_judge_is_refused_by_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    before = filled(path)
    other = {"judge": "endpoint", "model": "m", "temperature": 0.7, "options": {"seed": 1}}
    message = r"differs in options \(None there, {'seed': 1} here\), temperature \(0.0 there, 0.7 here\)"
    with pytest.raises(StudyError, match=message), open_answers(path, other):
        pass
    assert path.read_bytes() == before


def test_an_identity_with_tuples_and_whole_numbers_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with open_answers(path, {"stops": ["a", "b"], "temperature": 0.0}):
        pass
    with open_answers(path, {"stops": ("a", "b"), "temperature": 0}) as answers:  # type: ignore[dict-item]
        assert len(answers) == 0


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    code = f"""
        from pathlib import Path
        from patchlens.evaluation.answers import open_answers
        with open_answers(Path({str(path)!r}), {IDENTITY!r}):
            print("open", flush=True)
            input()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(StudyError, match="another process is writing"), open_answers(path, IDENTITY):
            pass
        assert read_answers(path) == (IDENTITY, {})  # reading is allowed
        other.kill()
    with open_answers(path, IDENTITY) as answers:
        answers.add(answer(1))


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses to write beyond it, as a full disk does: a part of the line is written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_keeps_all_earlier_answers(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    whole = filled(path, 2)
    with open_answers(path, IDENTITY) as answers:
        with (
            files_of_at_most(len(whole) + 10),
            pytest.raises(StorageError, match=r"answers\.jsonl failed.*The 2 answers stored before are kept"),
        ):
            answers.add(answer(2))
        assert path.read_bytes() == whole
        assert answers.get("q2") is None
        answers.add(answer(3))  # there is room again
    assert list(read_answers(path)[1]) == ["q0", "q1", "q3"]


def test_no_room_for_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with files_of_at_most(5), pytest.raises(StorageError), open_answers(path, IDENTITY):
        pass
    assert len(filled(path).splitlines()) == 4


def test_what_may_not_be_written_or_read(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="failed"), open_answers(tmp_path, IDENTITY):
        pass
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(StudyError, match="there is no such file"):
            read_answers(path)


def test_every_answer_is_flushed_before_add_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = []
    path = tmp_path / "answers.jsonl"
    with open_answers(path, IDENTITY) as answers:
        monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(os.fstat(handle).st_size))
        for number in range(3):
            answers.add(answer(number))
            assert flushed[-1] == path.stat().st_size
    assert len(flushed) == 3


def test_threads_add_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with open_answers(path, IDENTITY) as answers:
        threads = [
            threading.Thread(target=lambda start=start: [answers.add(answer(start + n)) for n in range(10)])
            for start in range(0, 80, 10)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert read_answers(path)[1] == {f"q{number}": answer(number) for number in range(80)}
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_nothing_is_added_once_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with open_answers(path, IDENTITY) as answers:
        answers.add(answer(1))
    with pytest.raises(StudyError, match="is closed"):
        answers.add(answer(2))
    assert list(read_answers(path)[1]) == ["q1"]
