from dataclasses import replace

import pytest

from evaluation.misbehaving import scene
from patchlens.errors import OptionError
from patchlens.evaluation.asking import ask_all
from patchlens.evaluation.judges.truth import TruthJudge
from patchlens.evaluation.question import Question, Shown, ask_about
from patchlens.evaluation.region import Region
from patchlens.evaluation.rubric import find_rubric
from patchlens.evaluation.truth import PatchTruth, SceneTruth


def words(*given: str) -> frozenset[str]:
    return frozenset(given)


CAT = PatchTruth(
    True,
    thing=words("cat", "cats"),
    color=words("black"),
    kind=words("animal", "pet"),
    place=words("park"),
    elsewhere=words("boat", "red", "vehicle", "bread"),
)
BOAT = PatchTruth(
    True, thing=words("boat"), color=words("red"), word=words("bread"), kind=words("vehicle"), place=words("park")
)
GRASS = PatchTruth(False, place=words("park"))

SCENE = SceneTruth("scene", 4, 5, (*[GRASS] * 5, GRASS, CAT, *[GRASS] * 3, *[GRASS] * 9, BOAT))
"""4 rows of 5 patches: the cat at (1, 1), the boat at (3, 4)."""


def region(row: int, column: int, image: str = "scene", tile: int = 0) -> Region:
    height, width = 64 / 4, 96 / 5
    box = ((row - 1) * height, (column - 1) * width, (row + 2) * height, (column + 2) * width)
    return Region(image, tile, row, column, box)


def verdict(word: str, at: Region, **options: int) -> str:
    asked = ask_about(find_rubric("patch"), scene(), at, [Shown(word)])
    (found,) = TruthJudge({"scene": SCENE}, **options).ask(asked).content  # type: ignore[misc, union-attr]
    return str(found)


@pytest.mark.parametrize(
    ("word", "near_the_cat", "near_the_boat"),
    [
        ("cat", "concrete", "global"),
        ("Cats", "concrete", "global"),
        (" BLACK ", "concrete", "global"),
        ("animal", "abstract", "global"),
        ("boat", "global", "concrete"),
        ("bread", "global", "concrete"),
        ("vehicle", "global", "abstract"),
        ("park", "global", "global"),
        ("dog", "unrelated", "unrelated"),
        ("ca", "unrelated", "unrelated"),
        ("", "unrelated", "unrelated"),
        ("the", "unrelated", "unrelated"),
    ],
)
def test_by_hand(word: str, near_the_cat: str, near_the_boat: str) -> None:
    assert verdict(word, region(1, 2)) == near_the_cat  # the cat is at the region's edge
    assert verdict(word, region(2, 3)) == near_the_boat


def test_next_to_a_region_is_not_in_it() -> None:
    assert verdict("cat", region(2, 2)) == "concrete"
    assert verdict("cat", region(2, 3)) == "global"


@pytest.mark.parametrize(
    ("word", "pieces", "expected"),
    [
        ("bla", 3, "concrete"),
        ("bla", 4, "unrelated"),
        ("bla", 0, "unrelated"),
        ("lack", 3, "unrelated"),  # a piece begins the word
        ("blacks", 3, "unrelated"),
        ("ani", 3, "abstract"),
        ("boa", 3, "global"),
        ("b", 1, "concrete"),  # black before boat and bread
        ("red", 1, "global"),
        ("cat", 4, "concrete"),  # whole words count at any length
        ("", 1, "unrelated"),
    ],
)
def test_pieces(word: str, pieces: int, expected: str) -> None:
    assert verdict(word, region(1, 1), pieces=pieces) == expected


def test_a_whole_word_goes_before_a_piece_of_a_better_one() -> None:
    """ "bo" is a word elsewhere, and begins one that is here."""
    here = replace(CAT, thing=words("bowl"))
    last = replace(BOAT, thing=words("bo"))
    scene_with = SceneTruth("scene", 4, 5, (*[GRASS] * 6, here, *[GRASS] * 12, last))
    asked = ask_about(find_rubric("patch"), scene(), region(1, 1), [Shown("bo")])
    assert TruthJudge({"scene": scene_with}, pieces=2).ask(asked).content == ["global"]


def test_verdicts_come_in_the_order_of_the_question() -> None:
    given = [Shown(word) for word in ("dog", "cat", "boat", "animal")]
    asked = ask_about(find_rubric("patch"), scene(), region(1, 1), given)
    content = ask_all(TruthJudge({"scene": SCENE}), [asked])[asked.id].content
    expected = {"dog": "unrelated", "cat": "concrete", "boat": "global", "animal": "abstract"}
    assert content == [expected[shown.word] for shown in asked.candidates]


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (region(1, 1, image="other"), "Nothing is known of the image 'other'"),
        (region(3, 2), "lies outside its truth, one grid of 4 × 5"),
        (region(1, 4), "lies outside its truth"),
        (region(1, 1, tile=1), "of tile 1 lies outside"),
    ],
)
def test_what_is_not_known_is_refused(at: Region, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        verdict("cat", at)


def test_other_rubrics_and_negative_pieces_are_refused() -> None:
    judge = TruthJudge({"scene": SCENE})
    with pytest.raises(OptionError, match="cannot answer the rubric 'mark'"):
        ask_all(judge, [Question(find_rubric("mark"), scene(), texts={"description": "A cat."})])
    with pytest.raises(OptionError, match="about no region"):
        judge.ask(Question(find_rubric("patch"), scene()))
    with pytest.raises(OptionError, match="Pieces of at least -1"):
        TruthJudge({}, pieces=-1)
    assert (judge.label, TruthJudge({}, pieces=3).label) == ("truth", "truth, pieces of 3 letters")


def test_patches_of_another_grid_are_refused() -> None:
    """The second row of 2 x 2 patches is not the second row of 4 x 5."""
    other = Region("scene", 0, 1, 1, (0.0, 0.0, 64.0, 96.0))
    with pytest.raises(OptionError, match="not those of the same patches in its truth, a grid of 4 × 5 over 64 × 96"):
        verdict("cat", other)
