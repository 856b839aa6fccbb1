import random
import re
from collections.abc import Callable
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from patchlens.evaluation.asking import ask_all
from patchlens.evaluation.captions import (
    WHAT,
    ClaimScore,
    Described,
    caption_counts,
    caption_scores,
    claim_questions,
    claim_scores,
    mark_questions,
    marks,
    reference_of,
    support_questions,
)
from patchlens.evaluation.judge import Judge
from patchlens.evaluation.question import Question
from patchlens.evaluation.rubric import RUBRICS, Claims, Mark, Support
from patchlens.evaluation.statistics import bootstrap, ratio
from patchlens.evaluation.truth import CaptionTruth, Vocabulary
from patchlens.evaluation.verdict import Answer
from patchlens.inputs.image import open_image
from patchlens.picturebook.language import caption
from patchlens.picturebook.scene import Scene, scenes
from patchlens.picturebook.truth import caption_truth
from patchlens.picturebook.world import PLACES, SIGN_WORDS, THINGS, plural

WORLD = Vocabulary(
    frozenset({"car", "owl", "sheep", "traffic light", "light", "knife", "city", "person"}),
    frozenset({"red", "blue", "brown"}),
    frozenset({"park", "beach"}),
)
TRUTH = CaptionTruth((("car", "red"), ("car", "blue"), ("owl", None)), "park", ("zoo",), WORLD)
COULD_STAND = ("zoo", "stop", "keep out")


def _there_said_both(text: str, truth: CaptionTruth = TRUTH) -> dict[str, tuple[int, int, int]]:
    counts = caption_counts(truth, text, COULD_STAND)
    return {what: (found.there, found.said, found.both) for what, found in vars(counts).items()}


# By truth


@pytest.mark.parametrize(
    ("text", "things", "colors"),
    [
        ("A red car, a blue car and an owl.", (3, 3, 3), (2, 2, 2)),
        ("A red car and an owl.", (3, 2, 2), (2, 1, 1)),  # two alike must be said twice
        ("Two cars.", (3, 2, 2), (2, 0, 0)),
        ("cars", (3, 2, 2), (2, 0, 0)),
        ("Two red cars.", (3, 2, 2), (2, 2, 1)),
        ("3 big blue cars.", (3, 3, 2), (2, 3, 1)),
        ("Three small red cars and one owl.", (3, 4, 3), (2, 3, 1)),
        ("Three owls beside cars.", (3, 5, 3), (2, 0, 0)),  # the number is the owls'
        ("Three owls, cars.", (3, 5, 3), (2, 0, 0)),
        ("In 1950 cars", (3, 2, 2), (2, 0, 0)),
        ("A brown owl.", (3, 1, 1), (2, 0, 0)),  # its color is not worth saying, and not wrong
        ("A blue sheep.", (3, 1, 0), (2, 1, 0)),
        ("The car is red.", (3, 1, 1), (2, 0, 0)),  # not directly before it
        ("Cars in a carpark, owlish.", (3, 2, 2), (2, 0, 0)),  # part of a word is no word
        ("", (3, 0, 0), (2, 0, 0)),
    ],
)
def test_things_and_colors(text: str, things: tuple[int, int, int], colors: tuple[int, int, int]) -> None:
    found = _there_said_both(text)
    assert found["things"] == things
    assert found["colors"] == colors


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a traffic light", 1), ("two traffic lights", 2), ("traffic and a light", 1), ("knives", 2), ("a knife", 1),
        ("cities", 2), ("people", 2), ("four people", 4), ("a sheep", 1), ("six sheep", 6), ("a person", 1),
    ],
)  # fmt: skip
def test_forms_of_nouns(text: str, said: int) -> None:
    assert _there_said_both(text)["things"][1] == said


def test_the_longer_noun_is_the_one_that_is_said() -> None:
    truth = CaptionTruth((("traffic light", "red"),), None, (), WORLD)
    assert _there_said_both("A red traffic light.", truth)["things"] == (1, 1, 1)
    assert _there_said_both("A red traffic light.", truth)["colors"] == (1, 1, 1)
    assert _there_said_both("A red light.", truth)["things"] == (1, 1, 0)


@pytest.mark.parametrize("name", THINGS)
def test_every_plural_of_a_world_with_irregular_ones(name: str) -> None:
    scene = Scene(0, "park", (), None)
    truth = CaptionTruth(((name, None),), "park", (), caption_truth(scene).vocabulary)
    assert caption_counts(truth, f"An {name}.", ()).things.both == 1
    assert caption_counts(truth, f"Many {plural(name)}.", ()).things.both == 1


@pytest.mark.parametrize(
    ("text", "places", "written"),
    [
        ("In a park. A sign says zoo.", (1, 1, 1), (1, 1, 1)),
        ("On a beach.", (1, 1, 0), (1, 0, 0)),
        ("A park by a beach; STOP.", (1, 2, 1), (1, 1, 0)),
        ('It says "ZOO", and Keep Out!', (1, 0, 0), (1, 2, 1)),
        ("Zoology in parks.", (1, 1, 1), (1, 0, 0)),
    ],
)
def test_place_and_writing(text: str, places: tuple[int, int, int], written: tuple[int, int, int]) -> None:
    found = _there_said_both(text)
    assert found["places"] == places
    assert found["written"] == written


def test_a_place_that_nobody_knows_is_not_asked_for() -> None:
    assert _there_said_both("In a park.", CaptionTruth((), None, (), WORLD))["places"] == (0, 0, 0)


def test_shares_over_images() -> None:
    bare = CaptionTruth((("car", "red"),), "beach", (), WORLD)
    found = caption_scores([(TRUTH, "A red car and a sheep in a park. zoo"), (bare, "A red car. zoo")])
    assert (found.recall("things").hits, found.recall("things").trials) == (2, 4)
    assert (found.precision("things").hits, found.precision("things").trials) == (2, 3)
    assert found.f1("things").share == pytest.approx(2 * 2 / 7)
    assert (found.recall("places").share, found.precision("places").share) == (0.5, 1.0)
    assert (found.recall("places").images, found.precision("places").images) == (2, 1)
    assert (found.misread.hits, found.misread.trials) == (1, 1)
    assert str(found.misread) == "100.0 % [0.0, 100.0]"
    assert str(caption_scores([]).recall("things")) == "–"


def test_words_that_could_stand_are_those_that_stand_anywhere_unless_listed() -> None:
    bare = CaptionTruth((), None, (), WORLD)
    pairs = [(TRUTH, ""), (bare, "A sign says stop, or zoo.")]
    assert caption_scores(pairs).counts[1].written.said == 1
    assert caption_scores(pairs, written=COULD_STAND).counts[1].written.said == 2
    assert caption_scores(pairs, written=()).misread.share == 0.0


def _garbled(scene: Scene, other: Scene) -> str:
    """A caption with something from another scene's in it."""
    rng = random.Random(scene.seed)
    words, strange = caption(scene, rng).split(), caption(other, rng).split()
    return " ".join(rng.choice((words, strange))[place % len(strange)] if rng.random() < 0.2 else word
                    for place, word in enumerate(words[: len(strange)]))  # fmt: skip


def test_as_counted_word_by_word() -> None:
    """The plain way, for a world of single words where nothing is said in the plural."""
    drawn = list(scenes(500, 80))
    pairs = [(scene, _garbled(scene, other)) for scene, other in pairwise(drawn)]
    found = caption_scores([(caption_truth(scene), text) for scene, text in pairs], written=SIGN_WORDS)
    for (scene, text), counts in zip(pairs, found.counts, strict=True):
        words = re.findall(r"[a-z]+", text.lower())
        names = [thing.name for thing in scene.things]
        both = sum(min(names.count(name), words.count(name)) for name in THINGS)
        assert vars(counts.things) == {"there": len(names), "said": sum(map(words.count, THINGS)), "both": both}
        colored = [(thing.color, thing.name) for thing in scene.things if THINGS[thing.name].recolorable]
        assert counts.colors.there == len(colored)
        assert counts.colors.both == sum(pair in set(pairwise(words)) for pair in colored)
        assert (counts.places.both, counts.places.said) == (scene.place in words, len(set(words) & set(PLACES)))
        assert counts.written.both == (scene.sign is not None and scene.sign.word in words)
    for what in WHAT:
        recall, precision = found.recall(what).share, found.precision(what).share
        assert recall is not None
        assert precision is not None
        assert found.f1(what).share == pytest.approx(2 * precision * recall / (precision + recall))
        assert 0 < recall < 1


def test_the_interval_of_f1_is_that_of_a_bootstrap_of_images() -> None:
    drawn = list(scenes(500, 120))
    pairs = [(caption_truth(scene), _garbled(scene, other)) for scene, other in pairwise(drawn)]
    found = caption_scores(pairs)
    sums = np.array([(2 * c.things.both, c.things.there + c.things.said) for c in found.counts])
    drawn_interval = bootstrap(sums, ratio)
    assert drawn_interval.low is not None
    assert drawn_interval.high is not None
    measure = found.f1("things")
    assert (measure.low, measure.high) == pytest.approx((drawn_interval.low, drawn_interval.high), abs=0.008)
    assert measure.high - measure.low > 0.05


def test_a_reference_in_plain_sentences() -> None:
    truth = CaptionTruth((("car", "red"), ("owl", None), ("car", "red")), "park", ("zoo",), WORLD)
    assert reference_of(truth) == (
        'There is a red car. There is an owl. There is another red car. The place is a park. The word "zoo" is written '
        "there."
    )
    assert reference_of(CaptionTruth((), None, (), WORLD)) == ""


# By a judge


class Scripted(Judge):
    """Splits at full stops, supports what the evidence or the picture's name says, gives 7; undecided where told."""

    name: ClassVar[str] = "scripted"
    rubrics: ClassVar[tuple[str, ...]] = tuple(RUBRICS)

    def __init__(self, undecided: Callable[[Question], bool] = lambda _: False) -> None:
        self.asked: list[Question] = []
        self.undecided = undecided

    @property
    def label(self) -> str:
        return "scripted"

    def ask(self, question: Question) -> Answer:
        self.asked.append(question)
        if self.undecided(question):
            return Answer(question.id, None, "refused", "It would not.")
        match question.rubric:
            case Claims():
                content = [part.strip() for part in question.texts["description"].split(".") if part.strip()]
            case Support():
                evidence = question.texts["evidence"] if question.image is None else question.image.name
                content = [claim.word in evidence for claim in question.candidates]
            case Mark():
                content = 7
        return Answer(question.id, content)


def _described(seen: str, said: str, reference: str | None = None) -> Described:
    shade = sum(map(ord, seen)) % 256
    return Described(open_image(Image.new("RGB", (4, 4), (shade, 0, 0)), name=seen), said, reference)


HOUSE = _described("a house, a tree, a red door", "a house. a tree. a cat. a dog", "a house. a red door. a tree")
BEACH = _described("a beach, a ball", "a ball", "a ball. a beach")


def _scores(judge: Judge, *described: Described):
    answers = ask_all(judge, claim_questions(described))
    answers |= ask_all(judge, support_questions(described, answers))
    return claim_scores(described, answers)


def test_claims_worked_by_hand() -> None:
    judge = Scripted()
    house, beach = _scores(judge, HOUSE, BEACH)
    assert house.said == (("a house", True), ("a tree", True), ("a cat", False), ("a dog", False))
    assert house.wanted == (("a house", True), ("a red door", False), ("a tree", True))
    assert (house.precision, house.recall) == (0.5, 2 / 3)
    assert house.f1 == pytest.approx(2 * 0.5 * (2 / 3) / (0.5 + 2 / 3))
    assert (beach.precision, beach.recall, beach.f1) == (1.0, 0.5, pytest.approx(2 / 3))
    assert len(judge.asked) == 8
    shown = [question.image for question in judge.asked if isinstance(question.rubric, Support)]
    assert shown == [HOUSE.image, None, BEACH.image, None]  # recall is a matter of texts alone


@pytest.mark.parametrize(
    "which",
    [
        lambda q: q.texts.get("description") == HOUSE.caption,
        lambda q: q.texts.get("description") == HOUSE.reference,
        lambda q: q.image == HOUSE.image,
        lambda q: q.texts.get("evidence") == HOUSE.caption,
    ],
    ids=["claims", "claims of the reference", "precision", "recall"],
)
def test_undecided_at_any_stage_leaves_the_image_undecided_and_no_other(which: Callable[[Question], bool]) -> None:
    judge = Scripted(which)
    house, beach = _scores(judge, HOUSE, BEACH)
    assert house.undecided == "refused"
    assert (house.precision, house.recall, house.f1) == (None, None, None)
    assert beach == _scores(Scripted(), BEACH)[0]
    assert beach.undecided is None
    if not any(isinstance(question.rubric, Support) and which(question) for question in judge.asked):
        assert not any(question.image == HOUSE.image for question in judge.asked)  # a second round for nothing


def test_a_question_that_was_not_asked_gives_no_score() -> None:
    described = [HOUSE, BEACH]
    judge = Scripted()
    first = ask_all(judge, claim_questions(described))
    assert claim_scores(described, first) == ()
    assert support_questions(described, {}) == []
    second = ask_all(judge, support_questions([BEACH], first))
    assert [score.image for score in claim_scores(described, first | second)] == ["a beach, a ball"]


def test_a_description_that_claims_nothing() -> None:
    judge = Scripted()
    (silent,) = _scores(judge, _described("a house", " ", "a house. a tree"))
    assert (silent.precision, silent.recall, silent.f1) == (None, 0.0, 0.0)
    assert silent.wanted == (("a house", False), ("a tree", False))
    assert [type(question.rubric) for question in judge.asked] == [Claims]  # nothing to hold against anything
    assert ClaimScore("", said=(), wanted=(("a house", True),)).f1 == 0.0  # if a judge finds there what is not
    (empty,) = _scores(Scripted(), _described("a house", "...", "a house"))
    assert (empty.precision, empty.recall, empty.f1) == (None, 0.0, 0.0)


def test_without_a_reference_there_is_precision_alone() -> None:
    judge = Scripted()
    (score,) = _scores(judge, _described("a house", "a house. a cat"))
    assert (score.precision, score.recall, score.f1) == (0.5, None, None)
    assert len(judge.asked) == 2


def test_rubrics_of_ones_own() -> None:
    own = {"claims": Claims("claims", "Split {description}"), "support": Support("support", "{evidence}: {claims}")}
    first = claim_questions([BEACH], own)
    assert [question.text for question in first] == ["Split a ball", "Split a ball. a beach"]
    judge = Scripted()
    answers = ask_all(judge, first)
    second = support_questions([BEACH], answers, own)
    assert [question.text for question in second] == [": 1. a ball", "a ball: 1. a ball\n2. a beach"]
    assert claim_scores([BEACH], answers | ask_all(judge, second), own)[0].recall == 0.5
    assert claim_scores([BEACH], answers) == ()  # those answers are to other questions


def test_marks() -> None:
    judge = Scripted(lambda question: question.image == BEACH.image)
    questions = mark_questions([HOUSE, BEACH])
    assert questions[0].image == HOUSE.image
    assert HOUSE.caption in questions[0].text
    given = marks([HOUSE, BEACH], ask_all(judge, questions))
    assert [(found.image, found.mark, found.undecided) for found in given] == [
        (HOUSE.image.name, 7, None),
        (BEACH.image.name, None, "refused"),
    ]
    assert marks([HOUSE], {}) == ()
