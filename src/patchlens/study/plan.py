"""What a study would do, how long it would take and what it would cost; nothing is written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from patchlens.errors import OptionError
from patchlens.evaluation.asking import estimate_all
from patchlens.evaluation.captions import claim_questions, mark_questions, support_questions
from patchlens.evaluation.judge import Estimate, Judge
from patchlens.evaluation.question import Question, Shown, ask_about
from patchlens.evaluation.region import Region
from patchlens.evaluation.rubric import find_rubric
from patchlens.evaluation.verdict import Answer
from patchlens.progress import Report
from patchlens.study.config import EndpointConfig, ModelJudgeConfig, StudyConfig, TruthConfig
from patchlens.study.describing import described_in, references_of
from patchlens.study.findings import lexicon_of
from patchlens.study.interview import Interview
from patchlens.study.judges import budget_of, make_judge
from patchlens.study.pictures import Picture, truths_of
from patchlens.study.recording import Recorder

__all__ = ["Plan", "Step", "check_study", "plan_study"]

_TYPICAL = ("lighthouse", "striped", "on the left", "building", "sea")
"""Candidates of a made-up question, to estimate by before there are real ones."""
_DESCRIPTION = "A sentence on what the picture shows, and one on a detail of it. " * 4
_OF_DESCRIPTION = 5
"""Questions about one description: its claims and the reference's, what supports either, a mark."""


@dataclass(frozen=True)
class Step:
    """One part of a study's work."""

    what: str
    """"Read pictures with llava", "Ask gpt-5" …"""
    total: int
    """Pictures, questions or banks in all."""
    left: int
    """Of them still to be done."""
    seconds: float | None = None
    """What is left would take about so long; None where nothing is known."""
    cost: float | None = 0.0
    """It would cost about so much, in the currency of the judge's prices; None where no price is known."""
    note: str = ""
    """What that rests on."""


@dataclass(frozen=True)
class Plan:
    """What running a study would do."""

    steps: tuple[Step, ...]

    @property
    def seconds(self) -> float | None:
        """All that is known of the time."""
        known = [step.seconds for step in self.steps if step.seconds is not None and step.left]
        return sum(known, 0.0) if known else None

    @property
    def cost(self) -> float | None:
        """What judges would cost; None if a price is missing."""
        costs = [step.cost for step in self.steps if step.left]
        return None if None in costs else sum((cost for cost in costs if cost is not None), 0.0)


def check_study(config: StudyConfig, pictures: Sequence[Picture]) -> None:
    """Find before the first hour of work what would fail after it.

    Raises:
        OptionError: A judge, a rubric, a budget, a lexicon or a truth that cannot be used.
        JudgeError: An endpoint that cannot be asked.
    """
    lexicon_of(config)
    references_of(config)
    for judge in config.judges:
        find_rubric(judge.rubric, judge.rubric_file)
        if isinstance(judge, TruthConfig):
            truths = truths_of(pictures)
            if unknown := [picture.name for picture in pictures if picture.name not in truths] if truths else []:
                raise OptionError(
                    f"The judge {judge.label!r} goes by truth, and nothing is known of {len(unknown)} of the study's "
                    f"{len(pictures)} pictures, {unknown[0]!r} among them. Put a .json with the truth beside each."
                )
            make_judge(judge, truths)
        elif not isinstance(judge, ModelJudgeConfig):  # which would load the model
            make_judge(judge, {})
        if budget_of(judge) is not None and isinstance(judge, EndpointConfig) and judge.input_price is None:
            raise OptionError(
                f"The judge {judge.label!r} has a budget of {judge.budget:g} and no prices. Give input_price and "
                "output_price, of a million tokens each."
            )


def plan_study(
    config: StudyConfig, pictures: Sequence[Picture], recorders: Sequence[Recorder], folder: Path, report: Report
) -> Plan:
    """Say what is left to do.

    Where nothing is known of a model's pace, it is loaded and one picture is tried; then it is let go.

    Raises:
        PatchlensError: As loading and reading do; what `check_study` finds.
    """
    check_study(config, pictures)
    steps: list[Step] = []
    most = dict.fromkeys((judge.label for judge in config.judges), 0)
    for recorder in recorders:
        steps += _reading_steps(recorder, len(pictures), report)
        if recorder.missing():
            for judge in config.judges:
                most[judge.label] += Interview(config, judge, pictures, folder).most_questions(recorder)
        recorder.release()
    recorded = not any(recorder.missing() or recorder.missing_captions() for recorder in recorders)
    for judge in config.judges:
        if isinstance(judge, TruthConfig):
            continue  # it takes seconds
        interview = Interview(config, judge, pictures, folder)
        if not isinstance(judge, EndpointConfig):
            steps.append(Step(f"Ask {judge.label}", 1, 1, note="its pace shows when it is asked"))
        elif recorded:
            steps += _exact_steps(interview, recorders, pictures, report)
        else:
            steps += _upper_steps(interview, most[judge.label], len(recorders), pictures)
    return Plan(tuple(steps))


def _reading_steps(recorder: Recorder, pictures: int, report: Report) -> Iterator[Step]:
    label, note = recorder.model.label, "one was tried"
    if banks := recorder.missing_banks():
        what = f"Build banks for {label}: {', '.join(banks)}"
        yield Step(what, len(banks), len(banks), note="'patchlens bank plan' tells how long")
    if left := recorder.missing():
        yield Step(f"Read pictures with {label}", pictures, left, recorder.probe(report) * left, note=note)
    if left := recorder.missing_captions():
        pace = recorder.probe_description(report)
        yield Step(f"Describe pictures with {label}", recorder.captions_wanted, left, pace * left, note=note)


def _exact_steps(
    interview: Interview, recorders: Sequence[Recorder], pictures: Sequence[Picture], report: Report
) -> Iterator[Step]:
    """From the questions themselves."""
    label = interview.judge.label
    judge = make_judge(interview.judge, {})
    given = interview.earlier(judge)
    report(f"Counting questions for {label}", 0, 1)
    records = [(recorder, recorder.open()) for recorder in recorders]
    found = [
        estimate_all(judge, [each.question for each in asked], given)
        for recorder, its in records
        for _, asked in interview.asked(recorder, its)
    ]
    yield _step(f"Ask {label}", _sum(found))
    if label in interview.study.captions.judges:
        captions = [its.captions for _, its in records]
        yield _step(f"Ask {label} about descriptions", _of_descriptions(interview, judge, given, captions, pictures))
    report(f"Counting questions for {label}", 1, 1)


def _of_descriptions(
    interview: Interview,
    judge: Judge,
    given: dict[str, Answer],
    captions: Sequence[pa.Table],
    pictures: Sequence[Picture],
) -> Estimate:
    """What is left to be asked about descriptions; claims that are not known yet count as one more question each."""
    references, parts = references_of(interview.study), []
    for table in captions:
        for described in described_in(table, pictures, references):
            claims = claim_questions(described)
            parts.append(estimate_all(judge, [*claims, *mark_questions(described)], given))
            parts.append(estimate_all(judge, support_questions(described, given), given))
            unknown = sum(question.id not in given for question in claims)
            parts.append(_times(judge.estimate(claims[:1]), unknown))
    return _sum(parts)


def _upper_steps(interview: Interview, most: int, models: int, pictures: Sequence[Picture]) -> Iterator[Step]:
    """From a made-up question, before there are any."""
    label, study, note = interview.judge.label, interview.study, "at most, before reading"
    judge = make_judge(interview.judge, {})
    image = pictures[0].open()
    height, width = image.size
    region = Region(image.name, 0, 1, 1, (height / 3, width / 3, 2 * height / 3, 2 * width / 3))
    one = ask_about(interview.rubric, image, region, [Shown(word) for word in _TYPICAL])
    yield _step(f"Ask {label}", _times(judge.estimate([one]), most), note)
    if label in study.captions.judges:
        count = models * min(len(pictures), study.captions.count or len(pictures))
        mark = Question(find_rubric("mark"), image, texts={"description": _DESCRIPTION})
        estimate = _times(judge.estimate([mark]), count * _OF_DESCRIPTION)
        yield _step(f"Ask {label} about descriptions", estimate, note)


def _step(what: str, estimate: Estimate, note: str = "") -> Step:
    total = estimate.questions + estimate.answered
    basis = "; ".join(part for part in (note, estimate.basis) if part)
    return Step(what, total, estimate.questions, estimate.seconds, estimate.cost, basis)


def _times(one: Estimate, count: int) -> Estimate:
    """What so many questions like one would take."""
    return Estimate(
        questions=count,
        input_tokens=one.input_tokens * count,
        output_tokens=one.output_tokens * count,
        seconds=None if one.seconds is None else one.seconds * count,
        cost=None if one.cost is None else one.cost * count,
        basis=one.basis,
    )


def _sum(parts: Sequence[Estimate]) -> Estimate:
    seconds, costs = [part.seconds for part in parts], [part.cost for part in parts]
    return Estimate(
        questions=sum(part.questions for part in parts),
        answered=sum(part.answered for part in parts),
        input_tokens=sum(part.input_tokens for part in parts),
        output_tokens=sum(part.output_tokens for part in parts),
        seconds=None if None in seconds else sum((each for each in seconds if each is not None), 0.0),
        cost=None if None in costs else sum((each for each in costs if each is not None), 0.0),
        basis=next((part.basis for part in parts if part.basis), ""),
    )
