"""From records to questions and back to rows, against plain loops."""

import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from patchlens.evaluation.records import CANDIDATES, REGIONS, VERDICTS_TABLE
from patchlens.evaluation.rubric import find_rubric
from patchlens.evaluation.verdict import VERDICTS, Answer
from patchlens.inputs.image import ImageInput, open_image
from patchlens.study.judging import Asked, judged_rows, questions, regions_of, verdict_rows

IMAGES = ("a", "b", "c", "d")
LAYERS = (0, 3)


def candidates(lenses: Sequence[str] = ("latent", "logit"), k: int = 3) -> pa.Table:
    """Every word says where it comes from; the judged patch of image n lies at row n + 1."""
    rows = []
    for (number, image), lens, layer, judged in itertools.product(
        enumerate(IMAGES), [*lenses, "random"], LAYERS, (True, False)
    ):
        for rank in range(1, k + 1):
            rows.append(
                {
                    "model": "m",
                    "lens": lens,
                    "baseline": "random rows" if lens == "random" else None,
                    "image": image,
                    "judged": judged,
                    "tile": 0,
                    "row": number + 1 if judged else 0,
                    "column": 2,
                    "position": 10 * number + judged,
                    "layer": layer,
                    "rank": rank,
                    "word": "Same" if rank == 3 else f"{lens} {image} {layer} {rank}",
                    "token": "t",
                    "sentence": f"so says {lens}" if lens == "latent" else None,
                    "word_start": 8 if lens == "latent" else None,
                    "word_end": 8 + len(lens) if lens == "latent" else None,
                }
            )
    return pa.Table.from_pylist(rows, schema=CANDIDATES)


@pytest.fixture(scope="module")
def images() -> dict[str, ImageInput]:
    return {name: open_image(np.full((40, 40, 3), 10 * n, np.uint8), name=name) for n, name in enumerate(IMAGES)}


@pytest.fixture(scope="module")
def table() -> pa.Table:
    rows = [
        {"model": "m", "image": name, "sha256": "", "tile": 0, "row": n + 1, "column": 2, "position": 10 * n + 1}
        | {"top": 0.0, "left": 0.0, "bottom": 30.0, "right": 30.0}
        for n, name in enumerate(IMAGES)
    ]
    rows.append({"model": "m", "image": "tiny", "sha256": ""})
    return pa.Table.from_pylist(rows, schema=REGIONS)


def test_images_without_a_region_have_none(table: pa.Table) -> None:
    regions = regions_of(table)
    assert list(regions) == list(IMAGES)
    assert (regions["b"].row, regions["b"].column, regions["b"].box) == (2, 2, (0.0, 0.0, 30.0, 30.0))


def test_only_judged_patches_and_wanted_lenses() -> None:
    rows = judged_rows(candidates(), ["logit"]).to_pylist()
    assert {row["lens"] for row in rows} == {"logit", "random"}
    assert all(row["judged"] for row in rows)
    assert len(rows) == len(IMAGES) * 2 * len(LAYERS) * 3


def test_every_image_lends_its_candidates_to_one_other() -> None:
    rows = judged_rows(candidates(), ["latent", "logit"], another=["latent"], seed=5).to_pylist()
    lent = [row for row in rows if row["baseline"] == "another image"]
    assert len(lent) == len(IMAGES) * len(LAYERS) * 3
    donor = {}
    for row in lent:
        assert row["lens"] == "latent"
        number = IMAGES.index(row["image"])
        assert (row["row"], row["position"]) == (number + 1, 10 * number + 1)  # where it is held against
        if row["rank"] < 3:
            _, source, layer, rank = row["word"].split()
            assert (int(layer), int(rank)) == (row["layer"], row["rank"])
            assert donor.setdefault(row["image"], source) == source
    assert sorted(donor.values()) == list(IMAGES)
    assert all(source != image for image, source in donor.items())
    orders = {
        tuple(judged_rows(candidates(), ["latent"], another=["latent"], seed=seed)["image"].to_pylist())
        for seed in range(12)
    }
    assert len(orders) > 2


def test_a_single_image_has_no_other() -> None:
    table = candidates()
    alone = table.filter(pa.array([name == "a" for name in table["image"].to_pylist()]))
    assert set(judged_rows(alone, ["latent"], another=["latent"])["baseline"].to_pylist()) == {None, "random rows"}


def _answers(asked: Sequence[Asked]) -> dict[str, Answer]:
    """A verdict that follows from the word, and every fifth question undecided."""
    found = {}
    for number, each in enumerate(asked):
        question = each.question
        verdicts = [VERDICTS[len(shown.word) % 4] for shown in question.candidates]
        undecided = number % 5 == 4
        found[question.id] = Answer(
            question.id,
            None if undecided else verdicts,
            "unreadable" if undecided else None,  # type: ignore[arg-type]
        )
    return found


@pytest.mark.parametrize("rubric", ["patch", "sentence"])
def test_verdicts_come_back_to_their_rows(rubric: str, images: dict[str, ImageInput], table: pa.Table) -> None:
    rows = judged_rows(candidates(), ["latent", "logit"], another=["logit"])
    asked = list(questions(rows, find_rubric(rubric), images, regions_of(table)))
    assert len(asked) == len(IMAGES) * len(LAYERS) * 4
    assert sorted(row for each in asked for row in each.rows) == list(range(rows.num_rows))
    answers = _answers(asked)
    made = verdict_rows(rows, asked, answers, judge="j", rubric=rubric)
    assert made.schema.equals(VERDICTS_TABLE)
    assert made.num_rows == rows.num_rows
    for row in made.to_pylist():
        answer = answers[row["question"]]
        assert row["undecided"] == answer.undecided
        assert row["verdict"] == (None if answer.undecided else VERDICTS[len(row["word"]) % 4])
    sentences = {shown.sentence for each in asked for shown in each.question.candidates}
    assert (sentences == {None}) == (rubric == "patch")


def test_what_was_never_answered_gives_no_row(images: dict[str, ImageInput], table: pa.Table) -> None:
    rows = judged_rows(candidates(), ["latent"])
    asked = list(questions(rows, find_rubric("patch"), {"b": images["b"]}, regions_of(table)))
    assert {each.question.region.image for each in asked if each.question.region} == {"b"}
    one = {asked[0].question.id: Answer(asked[0].question.id, ["global", "global", "unrelated"])}
    made = verdict_rows(rows, asked, one, judge="j", rubric="patch").to_pylist()
    assert [row["image"] for row in made] == ["b"] * 3
    assert verdict_rows(rows, asked, {}, judge="j", rubric="patch").num_rows == 0
