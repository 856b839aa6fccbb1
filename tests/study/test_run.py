"""Whole studies, small: from a file to a report, and what stops one on the way."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from patchlens.errors import JudgeError, OptionError, PatchlensError, StudyError
from patchlens.evaluation.answers import open_answers
from patchlens.evaluation.judges.replay import ReplayJudge
from patchlens.evaluation.metrics import interpretability
from patchlens.evaluation.question import Question
from patchlens.evaluation.ratings import PEOPLE
from patchlens.evaluation.records import VERDICTS_TABLE, open_table
from patchlens.evaluation.verdict import VERDICTS, Answer
from patchlens.study import run
from patchlens.study.config import (
    CaptionsConfig,
    EndpointConfig,
    ImagesConfig,
    LensConfig,
    ModelConfig,
    ReplayConfig,
    StudyConfig,
    TruthConfig,
    parse_study,
)
from patchlens.study.pictures import truths_of
from patchlens.study.run import Study

KINDS = ("candidates", "states", "regions", "captions", "verdicts")


@pytest.fixture
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn once, for `done`; again and again they would take most of the time."""
    monkeypatch.setattr(run, "write_findings", lambda folder, findings: {each.name: "<svg/>" for each in findings})
    monkeypatch.setattr(run, "write_report", lambda path, **parts: path.write_text("\n".join(parts["summary"])))


pytestmark = pytest.mark.usefixtures("_no_figures")


@pytest.fixture(scope="module")
def drawn() -> StudyConfig:
    """Six scenes of the embedded model, judged by truth."""
    return StudyConfig(
        title="six scenes",
        layers="0,4",
        survey=2,
        batch=4,
        images=ImagesConfig(embedded="picturebook", count=6),
        models=(ModelConfig(name="picturebook", label="picturebook", bank="picturebook"),),
        lenses=(
            LensConfig(lens="latent", label="latent"),
            LensConfig(lens="logit", label="logit"),
            LensConfig(lens="latent", label="latent, a tenth", share=0.1, group="bank size"),
        ),
        judges=(
            TruthConfig(label="truth"),
            TruthConfig(label="kind", pieces=3, lenses=("logit",)),
        ),
        captions=CaptionsConfig(max_tokens=12, count=2),
    )


@pytest.fixture(scope="module")
def done(drawn: StudyConfig, tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = Study(drawn, tmp_path_factory.mktemp("study") / "out")
    study.run()
    return study


def test_everything_is_in_one_folder(done: Study, drawn: StudyConfig) -> None:
    folder = done.folder
    assert parse_study((folder / "study.toml").read_text(), folder) == drawn
    for kind in KINDS:
        open_table(folder / "rows" / f"{kind}.parquet", kind)
    assert {path.suffix for path in (folder / "figures").iterdir()} == {".png", ".svg"}
    assert {path.suffix for path in (folder / "tables").iterdir()} == {".csv", ".md"}
    about = json.loads((folder / "study.json").read_text())
    assert about["pictures"] == 6
    assert about["models"]["picturebook"]["fingerprint"]
    report = (folder / "report.html").read_text()
    assert "six scenes" in report
    assert not re.search(r'(?:src|href)="https?:', report)  # opens without a network


def test_every_share_of_the_report_is_in_the_rows(done: Study) -> None:
    """One cell of the table against a plain loop over the verdict rows."""
    rows = pq.read_table(done.folder / "rows" / "verdicts.parquet").to_pylist()
    patches: dict[str, bool] = {}
    for row in rows:
        if (row["judge"], row["lens"], row["baseline"], row["layer"]) == ("truth", "latent", None, 4):
            hit = row["verdict"] in ("concrete", "abstract", "global")
            patches[row["image"]] = patches.get(row["image"], False) or hit
    assert len(patches) == 6
    text = (done.folder / "tables" / "interpretability.csv").read_text().splitlines()
    columns = text[0].split(",")
    (line,) = [
        cells
        for cells in (dict(zip(columns, row.split(","), strict=False)) for row in text[1:] if '"' not in row)
        if (cells["judge"], cells["lens"], cells["baseline"], cells["layer"]) == ("truth", "latent", "", "4")
    ]
    assert str(sum(patches.values())) in line.values()


def test_verdicts_are_the_truths_own(done: Study) -> None:
    truths = truths_of(done.pictures)
    rows = pq.read_table(done.folder / "rows" / "verdicts.parquet").to_pylist()
    assert {row["baseline"] for row in rows} == {None, "random rows", "another image"}
    seen = set()
    for row in rows:
        if row["judge"] != "truth":
            continue
        truth, word = truths[row["image"]], row["word"].strip().lower()
        near = [truth.at(row["row"] + down, row["column"] + right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
        if any(word in patch.thing | patch.color | patch.word for patch in near):
            expected = "concrete"
        elif any(word in patch.kind for patch in near):
            expected = "abstract"
        elif any(word in p.thing | p.color | p.word | p.kind | p.place for p in truth.patches):
            expected = "global"
        else:
            expected = "unrelated"
        assert row["verdict"] == expected
        seen.add(expected)
    assert {"concrete", "unrelated"} <= seen


def test_a_study_that_is_done_is_written_again_from_its_rows(
    done: Study, drawn: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from patchlens.study import recording

    monkeypatch.setattr(recording, "load_model", lambda *arguments, **options: pytest.fail("the model was loaded"))
    before = {kind: (done.folder / "rows" / f"{kind}.parquet").read_bytes() for kind in KINDS}
    again = Study(drawn, done.folder)
    assert again.plan().steps == ()
    again.run()
    assert {kind: (done.folder / "rows" / f"{kind}.parquet").read_bytes() for kind in KINDS} == before


def test_the_plan_says_what_is_left(drawn: StudyConfig, tmp_path: Path) -> None:
    plan = Study(drawn, tmp_path / "out").plan()
    assert [(step.what, step.left) for step in plan.steps] == [
        ("Read pictures with picturebook", 6),
        ("Describe pictures with picturebook", 2),
    ]
    assert plan.seconds is not None
    assert plan.cost == 0
    assert not (tmp_path / "out").exists()  # planning writes nothing


def test_a_killed_study_goes_on_to_the_same_rows(drawn: StudyConfig, tmp_path: Path) -> None:
    small = replace(drawn, layers="4", lenses=drawn.lenses[:1], judges=drawn.judges[:1], batch=1)
    file = tmp_path / "study.toml"
    file.write_text(small.to_toml())
    whole = Study(small, tmp_path / "whole")
    whole.run()
    command = [sys.executable, "-m", "patchlens", "study", str(file), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    done = 0
    while process.poll() is None and done < 2:  # in the middle of reading
        time.sleep(0.01)
        done = len(list((tmp_path / "out").glob("records/*/candidates-*")))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    went_on = Study(small, tmp_path / "out")
    assert 0 < went_on.recorders[0].missing() < 6
    went_on.run()
    for kind in KINDS:
        ours, theirs = (folder / "rows" / f"{kind}.parquet" for folder in (went_on.folder, whole.folder))
        assert ours.read_bytes() == theirs.read_bytes()


def test_people_are_judges(done: Study, drawn: StudyConfig, tmp_path: Path) -> None:
    questions = done.questions_for_people(7)
    assert len({question.id for question in questions}) == 7
    assert [q.id for q in done.questions_for_people(9)][:7] == [q.id for q in questions]
    path = done.folder / "people" / "anna.jsonl"
    with open_answers(path, {"judge": PEOPLE, "label": "anna"}) as answers:
        for number, question in enumerate(questions):
            said = [VERDICTS[number % 4]] * len(question.candidates)
            answers.add(Answer(question.id, said if number else None, None if number else "skipped"))  # type: ignore[arg-type]
    try:
        done.run()
        rows = pq.read_table(done.folder / "rows" / "verdicts.parquet").to_pylist()
        hers = [row for row in rows if row["judge"] == "anna"]
        assert {row["question"] for row in hers} == {question.id for question in questions}
        assert {row["undecided"] for row in hers if row["question"] == questions[0].id} == {"skipped"}
        names = {path.stem for path in (done.folder / "tables").iterdir()}
        assert any("agreement" in name for name in names)
    finally:
        path.unlink()
        done.run()


def test_answers_of_a_recording_judge_again(done: Study, drawn: StudyConfig, tmp_path: Path) -> None:
    path = tmp_path / "recorded.jsonl"
    asked = done.questions_for_people(1000)
    with open_answers(path, {"judge": "endpoint", "label": "someone"}) as answers:
        for question in asked[::2]:
            answers.add(Answer(question.id, ["global"] * len(question.candidates)))
    judge = ReplayConfig(label="someone", path=path, lenses=("latent",))
    study = Study(replace(drawn, judges=(judge,), captions=CaptionsConfig(enabled=False)), tmp_path / "out")
    study.run()
    rows = pq.read_table(tmp_path / "out" / "rows" / "verdicts.parquet")
    assert set(rows["judge"].to_pylist()) == {"someone"}
    assert set(rows["verdict"].to_pylist()) == {"global", None}
    tallies = [tally for tally in interpretability(rows) if tally.series.lens == "latent"]
    assert all(tally.share in (None, 1.0) for tally in tallies)  # undecided is not "no"
    assert sum(sum(tally.undecided) for tally in tallies) > 0


def test_truth_where_none_is_known(config: StudyConfig, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="nothing is known of the study's pictures"):
        Study(replace(config, judges=(TruthConfig(label="truth"),)), tmp_path / "out").run()


def test_pictures_too_small_for_any_region(config: StudyConfig, llava_folder: object, tmp_path: Path) -> None:
    model = replace(config.models[0], name=str(llava_folder("clip", "llama", image_size=16)), bank=None)  # type: ignore[operator]
    few = replace(config, models=(model,), lenses=(config.lenses[1],), baselines=())
    with pytest.raises(StudyError, match="None of the 5 pictures has a region"):
        Study(few, tmp_path / "out").run()


def test_a_truth_of_another_grid_is_refused(config: StudyConfig, drawn: StudyConfig, tmp_path: Path) -> None:
    """A model of 4 x 4 patches on scenes whose truth has 12 x 12: row 1 is not row 1."""
    wrong = replace(
        config, images=ImagesConfig(embedded="picturebook", count=2), judges=(TruthConfig(label="truth"),), layers="0"
    )
    with pytest.raises(OptionError, match="which are not those of the same patches in its truth, a grid of 12 × 12"):
        Study(replace(wrong, lenses=(config.lenses[1],), baselines=()), tmp_path / "out").run()


def test_a_judge_of_a_lens_that_one_model_lacks(drawn: StudyConfig, tmp_path: Path) -> None:
    latent, logit = replace(drawn.lenses[0], models=("picturebook",)), replace(drawn.lenses[1], models=("other",))
    two = replace(
        drawn,
        models=(*drawn.models, replace(drawn.models[0], label="other")),
        lenses=(latent, logit),
        judges=(TruthConfig(label="truth", lenses=("latent",), layers="4"),),
        captions=CaptionsConfig(enabled=False),
        images=replace(drawn.images, count=2),
    )
    study = Study(two, tmp_path / "out")
    study.run()
    rows = pq.read_table(tmp_path / "out" / "rows" / "verdicts.parquet").to_pylist()
    assert {(row["model"], row["layer"]) for row in rows} == {("picturebook", 4)}


def test_a_judge_of_nothing_is_asked_nothing(drawn: StudyConfig, tmp_path: Path) -> None:
    judge = TruthConfig(label="truth", lenses=())
    few = replace(drawn, judges=(judge,), captions=CaptionsConfig(enabled=False), images=replace(drawn.images, count=2))
    report = Study(few, tmp_path / "out").run()
    assert pq.read_table(tmp_path / "out" / "rows" / "verdicts.parquet").num_rows == 0
    assert "No judge was asked" in report.read_text()


def test_planning_lets_models_go(drawn: StudyConfig, tmp_path: Path) -> None:
    study = Study(drawn, tmp_path / "out")
    study.plan()
    assert [recorder._loaded for recorder in study.recorders] == [None]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"lexicon": "wordnet:/nowhere"}, "/nowhere"),
        ({"judges": (ReplayConfig(label="r", path=Path("/nowhere.jsonl")),)}, "nowhere.jsonl"),
        ({"judges": (EndpointConfig(label="e", url="http://x/v1", model="m", budget=1.0),)}, "no prices"),
        ({"judges": (TruthConfig(label="t", rubric_file=Path("/nowhere.md")),)}, "nowhere.md"),
    ],
)
def test_what_would_fail_late_fails_before_anything_is_read(
    drawn: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], complaint: str
) -> None:
    from patchlens.study import recording

    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setattr(recording, "load_model", lambda *arguments, **options: pytest.fail("the model was loaded"))
    study = Study(replace(drawn, **change), tmp_path / "out")  # type: ignore[arg-type]
    for work in (study.plan, study.run):
        with pytest.raises(PatchlensError, match=complaint):
            work()


def test_a_folder_of_something_else(drawn: StudyConfig, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(OptionError, match=r"holds letter.txt and no study.toml"):
        Study(drawn, tmp_path)
    with pytest.raises(OptionError, match="a file of that name is in the way"):
        Study(drawn, tmp_path / "letter.txt")


def test_two_at_once(done: Study, drawn: StudyConfig) -> None:
    with done._alone(), pytest.raises(StudyError, match="Another process is working"):
        Study(drawn, done.folder).run()


def test_a_headline_says_its_n_what_is_undecided_and_leaves_people_out(done: Study) -> None:
    from patchlens.study.findings import summary_of

    told = json.loads((done.folder / "study.json").read_text())["summary"]
    assert any("judged by truth" in line and "LatentLens" in line and "(n = 6)" in line for line in told)
    rows = pq.read_table(done.folder / "rows" / "verdicts.parquet").to_pylist()
    truth = [row for row in rows if row["judge"] == "truth" and row["lens"] != "latent, a tenth"]
    anna = [row | {"judge": "anna"} for row in truth if row["lens"] == "logit" and row["baseline"] is None]
    open_ = [row | {"verdict": None, "undecided": "unreadable"} for row in truth]
    for some, expected in ((truth + anna, "judged by truth"), (open_, "questions undecided")):
        table = pa.Table.from_pylist(some, schema=VERDICTS_TABLE)
        said = " ".join(summary_of(done.config, table))
        assert expected in said
        assert "judged by anna" not in said
    count = len({row["question"] for row in truth})
    assert f"truth left {count} of {count} questions undecided: {count} unreadable" in said


def test_a_judge_that_stops_has_been_asked_picture_by_picture(drawn: StudyConfig, tmp_path: Path) -> None:
    judge = ReplayConfig(label="r", path=tmp_path / "r.jsonl")
    study = Study(replace(drawn, judges=(judge,), captions=CaptionsConfig(enabled=False)), tmp_path / "out")
    asked: list[str] = []

    class Noting(ReplayJudge):
        kept = True

        def ask(self, question: Question) -> Answer:
            assert question.region is not None
            asked.append(question.region.image)
            if len(set(asked)) == 3:
                raise JudgeError("enough")
            return Answer(question.id, ["global"] * len(question.candidates))

    with open_answers(tmp_path / "r.jsonl", {"judge": "someone"}):
        pass
    for recorder in study.recorders:
        recorder.run()
    records = {recorder.model.label: recorder.open() for recorder in study.recorders}
    interview = study._interview(judge)
    rows, why = interview.verdicts(
        Noting(tmp_path / "r.jsonl"), study.recorders, records, again=False, report=lambda *_: None
    )
    assert "enough" in str(why)
    assert asked == sorted(asked)
    by_image = {name: set() for name in rows["image"].to_pylist()}  # type: ignore[var-annotated]
    for row in rows.to_pylist():
        by_image[row["image"]].add((row["lens"], row["baseline"], row["layer"]))
    whole = max(by_image.values(), key=len)
    assert sum(found == whole for found in by_image.values()) >= 2  # the images that were come to an end are whole
