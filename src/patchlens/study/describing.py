"""How good descriptions are, as judges see them: single claims held against picture and reference, and marks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from patchlens.evaluation.answers import Answers
from patchlens.evaluation.asking import ask_all
from patchlens.evaluation.captions import (
    ClaimScore,
    Described,
    Marked,
    claim_questions,
    claim_scores,
    mark_questions,
    marks,
    reference_of,
    support_questions,
)
from patchlens.evaluation.judge import Judge
from patchlens.evaluation.question import Question
from patchlens.evaluation.verdict import Answer
from patchlens.progress import Report
from patchlens.study.config import StudyConfig
from patchlens.study.pictures import Picture, references

__all__ = ["DescriptionScores", "described_in", "references_of", "score_descriptions"]

_CHUNK = 64


@dataclass
class DescriptionScores:
    """What judges made of descriptions, by model and judge."""

    claims: dict[tuple[str, str], tuple[ClaimScore, ...]] = field(default_factory=dict)
    """One per picture."""
    marks: dict[tuple[str, str], tuple[Marked, ...]] = field(default_factory=dict)
    """One per picture."""


def score_descriptions(
    captions: pa.Table,
    pictures: Sequence[Picture],
    references: Mapping[str, str],
    judge: Judge,
    answers: Answers | None,
    *,
    label: str,
    budget: float | None,
    again: bool,
    report: Report,
    into: DescriptionScores,
) -> None:
    """Have a judge take every description apart, and mark it.

    Args:
        captions: Of all models, see `records.CAPTIONS`.
        pictures: Those described, and perhaps others.
        references: What should be said, by picture; where nothing is given, what is known of a drawn picture.
        judge: Who is asked.
        answers: Where its answers are kept.
        label: What the study calls the judge.
        budget: As for `ask_all`.
        again: As for `ask_all`.
        report: Told how many descriptions are done.
        into: Takes the scores.

    Raises:
        JudgeError: The judge cannot go on; BudgetSpent.
    """
    title, total, done = f"Asking {label} about descriptions", captions.num_rows, 0

    def ask(questions: Sequence[Question]) -> dict[str, Answer]:
        return ask_all(judge, questions, answers=answers, budget=budget, again=again)

    for model in sorted(set(captions["model"].to_pylist())):
        claims: list[ClaimScore] = []
        given: list[Marked] = []
        for described in described_in(captions.filter(pc.equal(captions["model"], model)), pictures, references):
            report(title, done, total)
            first = ask(claim_questions(described))
            second = ask(support_questions(described, first))
            claims += claim_scores(described, {**first, **second})
            given += marks(described, ask(mark_questions(described)))
            done += len(described)
            report(title, done, total)
        into.claims[model, label] = tuple(claims)
        into.marks[model, label] = tuple(given)


def references_of(config: StudyConfig) -> dict[str, str]:
    """What people wrote of the study's pictures, by name; nothing where the study names no file.

    Raises:
        OptionError: The file cannot be read.
    """
    return {} if config.images.references is None else references(config.images.references)


def described_in(
    captions: pa.Table, pictures: Sequence[Picture], references: Mapping[str, str]
) -> Iterator[list[Described]]:
    """Descriptions with their pictures, some at a time: pictures are opened for them."""
    said = dict(zip(captions["image"].to_pylist(), captions["caption"].to_pylist(), strict=True))
    wanted = [picture for picture in pictures if picture.name in said]
    for start in range(0, len(wanted), _CHUNK):
        yield [
            Described(picture.open(), said[picture.name], _reference(picture, references))
            for picture in wanted[start : start + _CHUNK]
        ]


def _reference(picture: Picture, references: Mapping[str, str]) -> str | None:
    if picture.name in references:
        return references[picture.name]
    known = picture.known.caption if picture.known is not None else None
    return None if known is None else reference_of(known)
