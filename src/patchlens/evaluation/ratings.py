"""What several judges said of the same questions, laid out for measures of agreement. It computes none of them."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from patchlens.errors import StudyError
from patchlens.evaluation.answers import read_answers
from patchlens.evaluation.question import Question
from patchlens.evaluation.verdict import INTERPRETABLE, VERDICTS, Answer

__all__ = ["PEOPLE", "Ratings", "people", "ratings"]

PEOPLE = "people"
"""What stands as the judge in the identity of answers that a person gave."""

Rated: TypeAlias = dict[Hashable, Hashable]
"""What a rater, or anything else, has for each item."""


@dataclass(frozen=True)
class Ratings:
    """What raters said, item by item. An item that a rater did not decide is absent with this rater."""

    verdicts: dict[str, Rated]
    """By rater: the verdict on each candidate. Items are "<question's id> <candidate's number, from 1>"."""
    patches: dict[str, Rated]
    """By rater: "interpretable" or "not interpretable" for each patch. Items are questions' ids."""
    images: Rated
    """Which image each item of either kind belongs to: the clusters that `agreement` takes."""
    undecided: dict[str, dict[str, int]]
    """By rater: questions without a decision, by the reason; all reasons are among `UNDECIDED`."""
    unanswered: dict[str, int]
    """By rater: questions that there is no answer to at all."""


def ratings(questions: Iterable[Question], answers: Mapping[str, Mapping[str, Answer]]) -> Ratings:
    """Lay out what raters answered.

    Args:
        questions: Which ones count; equal ones count once.
        answers: By the rater's label: answers by their question's id. Those to other questions are left aside.

    Raises:
        StudyError: An answer does not have one verdict for each candidate.
    """
    asked = {question.id: question for question in questions}
    found = Ratings({}, {}, {}, {}, {})
    for question in asked.values():
        image = question.id if question.image is None else question.image.sha256
        found.images.update({item: image for item in (question.id, *_items(question))})
    for rater, given in answers.items():
        decided = {id: _verdicts(rater, asked[id], answer) for id, answer in _decided(asked, given)}
        found.verdicts[rater] = {
            item: verdict
            for id, verdicts in decided.items()
            for item, verdict in zip(_items(asked[id]), verdicts, strict=True)
        }
        found.patches[rater] = {id: _readable(verdicts) for id, verdicts in decided.items()}
        reasons = (given[id].undecided for id in asked if id in given)
        found.undecided[rater] = dict(Counter(reason for reason in reasons if reason is not None))
        found.unanswered[rater] = sum(id not in given for id in asked)
    return found


def people(folder: Path) -> dict[str, dict[str, Answer]]:
    """What people answered, by their name; answers of other judges in the folder are left aside.

    Args:
        folder: Where `annotation_app` keeps them.

    Raises:
        StudyError: There is no such folder, two of its files are one person's, or one cannot be read.
    """
    if not folder.is_dir():
        raise StudyError(f"Opening the answers of people in {folder}: there is no such folder. Check the path.")
    found: dict[str, dict[str, Answer]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        identity, answers = read_answers(path)
        if identity.get("judge") != PEOPLE:
            continue
        label = str(identity.get("label", path.stem))
        if label in found:
            raise StudyError(f"Opening {path}: another file in this folder is {label}'s too. Keep one of them there.")
        found[label] = answers
    return found


def _items(question: Question) -> list[str]:
    return [f"{question.id} {number}" for number in range(1, len(question.candidates) + 1)]


def _decided(asked: Mapping[str, Question], given: Mapping[str, Answer]) -> list[tuple[str, Answer]]:
    return [(id, given[id]) for id in asked if id in given and given[id].undecided is None]


def _verdicts(rater: str, question: Question, answer: Answer) -> list[str]:
    content = answer.content if isinstance(answer.content, list) else []
    if len(content) != len(question.candidates) or any(verdict not in VERDICTS for verdict in content):
        raise StudyError(
            f"Laying out the ratings of {rater}: the answer to question {question.id} is {answer.content!r}, where one "
            f"of {', '.join(VERDICTS)} was expected for each of its {len(question.candidates)} candidates. Leave out "
            "questions of other rubrics; if the file was edited, remove the line."
        )
    return [str(verdict) for verdict in content]


def _readable(verdicts: list[str]) -> str:
    return "interpretable" if any(verdict in INTERPRETABLE for verdict in verdicts) else "not interpretable"
