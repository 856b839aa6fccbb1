"""A judge's answers on disk: one file, a line for each answer, on the disk before anything else happens with it.

A process that is killed loses no answer that it had: at most the line that it was writing, which is cut off when the
file is opened again. Knows neither judges nor rubrics.
"""

import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from patchlens.errors import StudyError
from patchlens.evaluation.verdict import UNDECIDED, Answer
from patchlens.provenance import JSON
from patchlens.storage import flush, readable, refusals, take_lock

__all__ = ["Answers", "open_answers", "read_answers"]

_VERSION = 1
_FIRST = b'{"format": '
"""How every file begins; one that was killed in its first line has no more than that line."""


class Answers:
    """A judge's answers, open for writing; made by `open_answers`. May be used from several threads at once."""

    def __init__(self, path: Path, handle: int, end: int, history: Iterable[Answer]) -> None:
        self.path = path
        self._handle: int | None = handle
        self._end = end
        self._history = list(history)
        self._last = {answer.question: answer for answer in self._history}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Questions that have an answer."""
        return len(self._last)

    def get(self, question_id: str) -> Answer | None:
        """The latest answer to a question; None if there is none."""
        return self._last.get(question_id)

    def values(self) -> list[Answer]:
        """The latest answer to each question."""
        with self._lock:
            return list(self._last.values())

    def history(self) -> list[Answer]:
        """Every answer that was ever stored, in order: all that was paid for, later replaced or not."""
        with self._lock:
            return list(self._history)

    def add(self, answer: Answer) -> None:
        """Store an answer; it is on the disk when this returns.

        Raises:
            StorageError: The disk refused; all earlier answers are kept.
            StudyError: The file was closed.
        """
        line = _line(answer.to_json())
        with self._lock:
            if self._handle is None:
                raise StudyError(f"Storing an answer in {self.path}: it is closed. Add answers inside the with block.")
            with refusals(self.path, f"The {len(self._history)} answers stored before are kept. "):
                self._append(self._handle, line)
            self._history.append(answer)
            self._last[answer.question] = answer

    def _append(self, handle: int, line: bytes) -> None:
        try:
            _write(handle, line, self._end)
            flush(self.path)
        except OSError:
            os.ftruncate(handle, self._end)
            raise
        self._end += len(line)

    def _close(self) -> None:
        with self._lock:
            if self._handle is not None:
                os.close(self._handle)
                self._handle = None


@contextmanager
def open_answers(path: Path, judge_identity: Mapping[str, JSON]) -> Iterator[Answers]:
    """Open a judge's answers for writing, or begin a file for them; no other process can meanwhile.

    Args:
        path: The file; missing parent folders are made.
        judge_identity: `Judge.identity`. A file holds answers of one identity.

    Yields:
        The answers that there are, to which more can be added.

    Raises:
        StudyError: The file is another judge's, is damaged, or another process writes to it.
        StorageError: The disk refused.
    """
    path = Path(os.path.realpath(path))
    with refusals(path, left=""):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = take_lock(path)
    if handle is None:
        raise StudyError(
            f"Opening {path} for a judge's answers: another process is writing to it. Wait for it to end, or give this "
            "one another file."
        )
    try:
        identity, history, end = _read(path)
        if identity is not None:
            _compare(path, identity, judge_identity)
        with refusals(path, left=""):
            os.ftruncate(handle, end)
            if identity is None:
                end = _begin(path, handle, judge_identity)
        answers = Answers(path, handle, end, history)
    except BaseException:
        os.close(handle)
        raise
    try:
        yield answers
    finally:
        answers._close()


def read_answers(path: Path) -> tuple[dict[str, Any], dict[str, Answer]]:
    """Read a judge's answers, perhaps while another process adds to them.

    Returns:
        The judge's identity, and the latest answer to each question by the question's id.

    Raises:
        StudyError: There is no such file, or it is damaged.
        StorageError: The disk does not let it be read.
    """
    try:
        identity, history, _ = _read(path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise StudyError(f"Reading a judge's answers from {path}: there is no such file. Check the path.") from error
    return identity or {}, {answer.question: answer for answer in history}


def _read(path: Path) -> tuple[dict[str, Any] | None, list[Answer], int]:
    """The identity, the answers, and where the last whole line ends; no identity where there is no whole line."""
    identity: dict[str, Any] | None = None
    history: list[Answer] = []
    end = 0
    with readable(path), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                if number == 1:
                    identity = _identity(line)
                elif line.endswith(b"\n"):
                    history.append(_answer(line))
            except (ValueError, KeyError, TypeError) as error:
                raise StudyError(f"Reading a judge's answers from {path}: {_damage(number, error)}") from error
            if line.endswith(b"\n"):  # or else its writer was killed in it
                end += len(line)
    return identity, history, end


def _damage(number: int, error: Exception) -> str:
    if number == 1:
        return f"it does not begin as such a file does ({error}). Give another file, or restore this one."
    return (
        f"line {number} is not an answer ({error}). The file was damaged or edited. Restore it, or remove that line to "
        "have its question asked again."
    )


def _identity(line: bytes) -> dict[str, Any] | None:
    """What the first line says; None where its writer was killed in it."""
    if not line.endswith(b"\n") and _FIRST.startswith(line[: len(_FIRST)]):
        return None
    record = json.loads(line)
    if record["format"] != _VERSION:
        raise ValueError(f"format {record['format']!r}, where {_VERSION} was expected")
    return dict(record["identity"])


def _answer(line: bytes) -> Answer:
    record = json.loads(line)
    if record["undecided"] not in (None, *UNDECIDED):
        raise ValueError(f"undecided for the unknown reason {record['undecided']!r}")
    return Answer.from_json(record)


def _compare(path: Path, found: Mapping[str, Any], judge_identity: Mapping[str, JSON]) -> None:
    ours: dict[str, Any] = json.loads(json.dumps(judge_identity))
    differing = sorted(name for name in found.keys() | ours.keys() if found.get(name) != ours.get(name))
    if differing:
        differences = ", ".join(f"{name} ({found.get(name)!r} there, {ours.get(name)!r} here)" for name in differing)
        raise StudyError(
            f"Opening {path} for a judge's answers: it holds those of another judge, which differs in {differences}. "
            "Answers of two judges are not mixed: give this one another file, or use the other one's settings."
        )


def _begin(path: Path, handle: int, judge_identity: Mapping[str, JSON]) -> int:
    line = _line({"format": _VERSION, "identity": dict(judge_identity)})
    _write(handle, line, 0)
    flush(path)
    flush(path.parent)
    return len(line)


def _line(record: Mapping[str, JSON]) -> bytes:
    # Escaped, for what a judge says may hold half a surrogate pair, which UTF-8 cannot.
    return json.dumps(record, allow_nan=False).encode() + b"\n"


def _write(handle: int, data: bytes, start: int) -> None:
    while data:
        written = os.pwrite(handle, data, start)
        data, start = data[written:], start + written
