from pathlib import Path

import pytest

from evaluation.misbehaving import many
from patchlens.errors import JudgeError, StudyError
from patchlens.evaluation.answers import open_answers
from patchlens.evaluation.asking import ask_all
from patchlens.evaluation.judges.replay import ReplayJudge
from patchlens.evaluation.verdict import Answer

ASKED = many(3)
RECORDED = [
    Answer(ASKED[0].id, ["global", "concrete"], input_tokens=5, exchanges=({"body": "…"},)),
    Answer(ASKED[1].id, None, "refused", "It would not."),
]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    with open_answers(tmp_path / "answers.jsonl", {"judge": "endpoint"}) as answers:
        for each in RECORDED:
            answers.add(each)
    return tmp_path / "answers.jsonl"


def test_a_recording_answers_as_the_judge_did(recording: Path) -> None:
    for judge in (ReplayJudge(recording), ReplayJudge(str(recording))):
        given = ask_all(judge, ASKED)
        assert [given[each.id] for each in ASKED[:2]] == RECORDED
        lacking = given[ASKED[2].id]
        assert (lacking.content, lacking.undecided) == (None, "failed")
        assert lacking.detail == f"The recording lacks the question {ASKED[2].id}; it has answers to 2 others."


def test_answers_may_be_given(recording: Path) -> None:
    given = {each.question: each for each in RECORDED}
    assert ReplayJudge(given).ask(ASKED[0]) == RECORDED[0]
    assert ReplayJudge(given).identity == ReplayJudge(recording).identity
    assert ReplayJudge({}).identity != ReplayJudge(recording).identity


def test_a_strict_one_stops(recording: Path) -> None:
    judge = ReplayJudge(recording, strict=True)
    assert judge.ask(ASKED[0]) == RECORDED[0]
    with pytest.raises(JudgeError, match="the recording lacks the question"):
        judge.ask(ASKED[2])


def test_it_costs_nothing_and_has_a_label(recording: Path) -> None:
    judge = ReplayJudge(recording, label="gpt, recorded")
    assert (judge.label, judge.kept, ReplayJudge(recording).label) == ("gpt, recorded", False, "replay")
    estimate = judge.estimate(ASKED)
    assert (estimate.questions, estimate.cost, estimate.seconds) == (3, 0.0, 0.0)


def test_no_recording(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="there is no such file"):
        ReplayJudge(tmp_path / "none.jsonl")
