"""`patchlens annotate`: a server in a process of its own, and what people's answers come to."""

import json
import signal
from pathlib import Path

import httpx2
import pytest

from patchlens.evaluation.answers import open_answers
from patchlens.evaluation.ratings import PEOPLE
from patchlens.evaluation.verdict import Answer
from patchlens.study.config import open_study
from patchlens.study.run import Study

from .test_study import FILE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose pictures have been read, with no judge."""
    home = tmp_path_factory.mktemp("study")
    (home / "study.toml").write_text(FILE)
    Study(open_study(home / "study.toml"), home / "out").run()
    return home / "out"


def test_it_serves_what_the_study_asks_and_keeps_answers(start, folder: Path) -> None:
    process = start("annotate", folder, "--n", 3, "--no-browser", "--json")
    assert process.stdout is not None
    told = json.loads(process.stdout.readline())
    assert told["questions"] == 3
    page = httpx2.get(told["url"])
    assert page.status_code == 200
    assert "Content-Security-Policy" in page.headers
    sheet = httpx2.get(f"{told['url']}questions", params={"annotator": "anna"}).json()
    text = json.dumps(sheet)
    assert "latent" not in text
    assert "layer" not in text
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130


def test_agreement_of_two_people(run, folder: Path) -> None:
    questions = Study(open_study(folder / "study.toml"), folder).questions_for_people(4)
    for name, other in (("anna", "global"), ("ben", "unrelated")):
        with open_answers(folder / "people" / f"{name}.jsonl", {"judge": PEOPLE, "label": name}) as answers:
            for number, question in enumerate(questions):
                said = ["concrete" if number % 2 else other] * len(question.candidates)
                answers.add(Answer(question.id, said))  # type: ignore[arg-type]
    found = run("annotate", folder, "--n", 4, "--agreement", "--json").json
    by = {(row["unit"], row["measure"]): row for row in found}
    pair = by["patch", "Cohen's κ, anna and ben"]
    # Of four patches Anna finds all interpretable and Ben two: they agree on half, as chance would have it.
    assert (pair["items"], pair["observed"], pair["value"]) == (4, 0.5, pytest.approx(0.0))
    ended = run("annotate", folder, "--n", 4, "--agreement")
    assert ended.status == 0, ended.err
    assert all(len(line) <= 80 for line in ended.out.splitlines())


def test_a_folder_without_a_study(run, tmp_path: Path) -> None:
    ended = run("annotate", tmp_path)
    assert (ended.status, "study.toml" in ended.err) == (2, True)


def test_a_study_that_has_read_nothing(run, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(FILE)
    ended = run("annotate", tmp_path)
    assert (ended.status, "nothing to annotate yet" in ended.err) == (2, True)
