import json
from fractions import Fraction
from pathlib import Path

import pytest
from PIL import Image

from patchlens.errors import StudyError
from patchlens.evaluation.agreement import agreement
from patchlens.evaluation.answers import open_answers
from patchlens.evaluation.question import Question, Shown, ask_about
from patchlens.evaluation.ratings import people, ratings
from patchlens.evaluation.region import Region
from patchlens.evaluation.rubric import find_rubric
from patchlens.evaluation.verdict import Answer
from patchlens.inputs.image import open_image

LETTERS = {"c": "concrete", "a": "abstract", "g": "global", "u": "unrelated"}


def ask(*words: str, shade: int = 0) -> Question:
    image = open_image(Image.new("RGB", (64, 64), (shade, 120, 90)))
    return ask_about(
        find_rubric("patch"), image, Region("image", 0, 1, 1, (0.0, 0.0, 48.0, 48.0)), [Shown(word) for word in words]
    )


def say(question: Question, letters: str) -> Answer:
    return Answer(question.id, [LETTERS[letter] for letter in letters])


ONE, TWO, THREE = ask("dog", "cat"), ask("sky"), ask("sun", "sea", shade=50)
ADA = {"ada": {ONE.id: say(ONE, "cu"), TWO.id: say(TWO, "u"), THREE.id: Answer(THREE.id, None, "skipped")}}


def test_items_are_candidates_and_patches() -> None:
    found = ratings([ONE, TWO, THREE, ONE], ADA)
    assert found.verdicts == {
        "ada": {f"{ONE.id} 1": "concrete", f"{ONE.id} 2": "unrelated", f"{TWO.id} 1": "unrelated"}
    }
    assert found.patches == {"ada": {ONE.id: "interpretable", TWO.id: "not interpretable"}}


@pytest.mark.parametrize("letters", ["uc", "au", "ug"])
def test_one_candidate_that_fits_is_enough(letters: str) -> None:
    assert ratings([ONE], {"ada": {ONE.id: say(ONE, letters)}}).patches == {"ada": {ONE.id: "interpretable"}}


def test_the_undecided_and_the_unanswered_are_counted_apart() -> None:
    answers = ADA | {"model": {ONE.id: Answer(ONE.id, None, "refused"), TWO.id: Answer(TWO.id, None, "refused")}}
    found = ratings([ONE, TWO, THREE], answers)
    assert found.undecided == {"ada": {"skipped": 1}, "model": {"refused": 2}}
    assert found.unanswered == {"ada": 0, "model": 1}
    assert found.verdicts["model"] == found.patches["model"] == {}


def test_answers_to_other_questions_are_left_aside() -> None:
    found = ratings([TWO], ADA)
    assert found.patches == {"ada": {TWO.id: "not interpretable"}}
    assert (found.undecided, found.unanswered) == ({"ada": {}}, {"ada": 0})


def test_items_of_one_image_are_one_cluster() -> None:
    images = ratings([ONE, TWO, THREE], {}).images
    assert images[ONE.id] == images[TWO.id] == images[f"{ONE.id} 2"] == images[f"{TWO.id} 1"]
    assert images[THREE.id] == images[f"{THREE.id} 1"] != images[ONE.id]
    assert len(images) == 3 + 5


@pytest.mark.parametrize(
    "content", [None, "cu", ["concrete"], ["concrete", "yes"], ["concrete", ["abstract"]], [True, 1]]
)
def test_an_answer_of_another_form_is_refused(content: object) -> None:
    with pytest.raises(StudyError, match=f"ratings of ada.*{ONE.id}.*for each of its 2 candidates"):
        ratings([ONE], {"ada": {ONE.id: Answer(ONE.id, content)}})


def test_what_agreement_makes_of_it() -> None:
    """Of five candidates: alike 4; chance (2·3 + 1·1 + 2·1) / 25."""
    ada = {ONE.id: say(ONE, "cu"), TWO.id: say(TWO, "a"), THREE.id: say(THREE, "uc")}
    ben = {ONE.id: say(ONE, "cc"), TWO.id: say(TWO, "a"), THREE.id: say(THREE, "uc")}
    found = ratings([ONE, TWO, THREE], {"ada": ada, "ben": ben})
    table = agreement(found.verdicts, clusters=found.images, draws=50)
    assert table.pairs["ada", "ben"].value == pytest.approx(float(Fraction(20 - 9, 25 - 9)))
    assert table.pairs["ada", "ben"].items == 5


def test_people_of_a_folder(tmp_path: Path) -> None:
    for label in ("Ada", "Ben"):
        with open_answers(tmp_path / f"{label}.jsonl", {"judge": "people", "label": label}) as answers:
            answers.add(say(ONE, "cu"))
            answers.add(say(ONE, "aa"))
    with open_answers(tmp_path / "gpt.jsonl", {"judge": "endpoint", "label": "gpt"}) as answers:
        answers.add(say(ONE, "uu"))
    (tmp_path / "notes.txt").write_text("not an answer")
    assert people(tmp_path) == {"Ada": {ONE.id: say(ONE, "aa")}, "Ben": {ONE.id: say(ONE, "aa")}}


def test_a_missing_folder_has_no_people(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="there is no such folder"):
        people(tmp_path / "none")
    assert people(tmp_path) == {}


def test_one_person_has_one_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with open_answers(tmp_path / f"{name}.jsonl", {"judge": "people", "label": "Ada"}):
            pass
    with pytest.raises(StudyError, match=r"two\.jsonl: another file in this folder is Ada's"):
        people(tmp_path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "ada.jsonl").write_text(json.dumps({"what": 1}) + "\n")
    with pytest.raises(StudyError, match=r"ada\.jsonl"):
        people(tmp_path)
