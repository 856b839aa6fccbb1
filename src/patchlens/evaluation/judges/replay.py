"""Recorded answers as a judge, for tests, for teaching, and for tables without a key."""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from patchlens.errors import JudgeError
from patchlens.evaluation.answers import read_answers
from patchlens.evaluation.judge import Judge
from patchlens.evaluation.question import Question
from patchlens.evaluation.rubric import RUBRICS
from patchlens.evaluation.verdict import Answer
from patchlens.provenance import JSON

__all__ = ["ReplayJudge"]


class ReplayJudge(Judge):
    """Answers as another judge did. Every file that `open_answers` fills is a recording.

    Args:
        answers: A recording's path, or answers by the question's id.
        label: What rows and tables call it.
        strict: Stop at a question that the recording lacks; otherwise it is left undecided.

    Raises:
        StudyError: There is no such recording, or it is damaged.
    """

    name: ClassVar[str] = "replay"
    rubrics: ClassVar[tuple[str, ...]] = tuple(RUBRICS)
    kept: ClassVar[bool] = False

    def __init__(
        self, answers: Mapping[str, Answer] | str | Path, *, label: str = "replay", strict: bool = False
    ) -> None:
        self.answers = dict(answers) if isinstance(answers, Mapping) else read_answers(Path(answers))[1]
        self._label = label
        self._strict = strict

    @property
    def label(self) -> str:
        """The label that was given."""
        return self._label

    @cached_property
    def identity(self) -> dict[str, JSON]:
        """The recording, known by its hash."""
        digest = hashlib.sha256()
        for each in sorted(self.answers):
            digest.update(json.dumps([each, self.answers[each].to_json()], sort_keys=True).encode())
        return {"judge": self.name, "recording": digest.hexdigest()}

    def ask(self, question: Question) -> Answer:
        """Look the question up.

        Raises:
            JudgeError: The recording lacks it, and the judge is strict.
        """
        if (answer := self.answers.get(question.id)) is not None:
            return answer
        lacking = f"The recording lacks the question {question.id}; it has answers to {len(self.answers)} others."
        if self._strict:
            raise JudgeError(
                f"Judging with {self.label}: {lacking[0].lower()}{lacking[1:]} Replay it for the images, rubrics and "
                "candidates that it was made of, or leave out strict."
            )
        return Answer(question.id, None, "failed", lacking)
