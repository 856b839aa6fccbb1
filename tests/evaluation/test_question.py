import random
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchlens.errors import OptionError
from patchlens.evaluation.question import Question, Shown, ask_about
from patchlens.evaluation.region import Region
from patchlens.evaluation.rubric import Verdicts, find_rubric
from patchlens.inputs.image import ImageInput, open_image

RUBRIC = find_rubric("patch")
REGION = Region("field", 0, 2, 3, (20.0, 40.0, 50.0, 100.0))
WORDS = [Shown("tree"), Shown("sky"), Shown("bank"), Shown("dog")]


@pytest.fixture(scope="module")
def image() -> ImageInput:
    """200 × 100 pixels of green, the region's all blue."""
    pixels = Image.new("RGB", (200, 100), (0, 160, 0))
    pixels.paste((0, 0, 200), (40, 20, 100, 50))
    return open_image(pixels, name="field")


def test_equal_questions_have_equal_ids(image: ImageInput) -> None:
    one = ask_about(RUBRIC, image, REGION, WORDS)
    again = ask_about(find_rubric("patch"), open_image(image.pixels.copy(), name="another name"), REGION, WORDS)
    assert one.id == again.id
    assert len(one.id) == 32


def test_questions_that_differ_have_other_ids(image: ImageInput) -> None:
    base = ask_about(RUBRIC, image, REGION, WORDS)
    darker = open_image(image.pixels.point(lambda value: value // 2), name="field")
    others = [
        ask_about(find_rubric("sentence"), image, REGION, WORDS),
        ask_about(Verdicts("patch", f"{RUBRIC.text} Think."), image, REGION, WORDS),
        ask_about(RUBRIC, darker, REGION, WORDS),
        ask_about(RUBRIC, image, replace(REGION, box=(20.0, 40.0, 50.0, 101.0)), WORDS),
        ask_about(RUBRIC, image, REGION, WORDS[:-1]),
        ask_about(RUBRIC, image, REGION, [*WORDS[:-1], Shown("dogs")]),
        ask_about(RUBRIC, image, REGION, [*WORDS[:-1], Shown("dog", "A dog ran.", (2, 5))]),
        Question(RUBRIC, image, None, base.candidates),
        Question(RUBRIC, None, REGION, base.candidates),
    ]
    assert len({base.id, *(other.id for other in others)}) == 1 + len(others)


def test_a_place_on_the_page_is_no_part_of_it(image: ImageInput) -> None:
    """The same pixels, reached by another tile or named otherwise, are the same question."""
    other = replace(REGION, image="x", tile=1, row=9, column=9)
    assert ask_about(RUBRIC, image, other, WORDS).id == ask_about(RUBRIC, image, REGION, WORDS).id


def test_a_judge_sees_no_rank(image: ImageInput) -> None:
    orders = [ask_about(RUBRIC, image, REGION, order) for order in permutations(WORDS)]
    assert len({asked.id for asked in orders}) == 1
    assert len({asked.text for asked in orders}) == 1


def test_the_order_shown_tells_nothing(image: ImageInput) -> None:
    """Over many sets of words the first ranked stands at each place about as often."""
    draw = random.Random(0)
    places = [0] * 5
    for _ in range(1000):
        words = [Shown("".join(draw.choices("abcdefgh", k=6))) for _ in range(5)]
        places[ask_about(RUBRIC, image, REGION, words).number_of(words[0])] += 1
    assert min(places) > 150  # of 200 expected; six standard deviations are 76
    assert max(places) < 250


def test_equal_candidates_are_asked_once_and_all_are_found(image: ImageInput) -> None:
    given = [Shown("Tree"), Shown(" tree"), Shown("sky"), Shown("TREE")]
    asked = ask_about(RUBRIC, image, REGION, given)
    assert len(asked.candidates) == 2
    assert {asked.number_of(shown) for shown in given} == {0, 1}
    assert len({asked.number_of(given[index]) for index in (0, 1, 3)}) == 1
    assert Shown("Tree") in asked.candidates  # as the best ranked one writes it


def test_a_word_in_another_sentence_is_another_candidate(image: ImageInput) -> None:
    river = Shown("bank", "The bank of the river.", (4, 8))
    money = Shown("bank", "The bank lends money.", (4, 8))
    asked = ask_about(find_rubric("sentence"), image, REGION, [river, money])
    assert len(asked.candidates) == 2
    assert "The **bank** of the river." in asked.text
    assert "The **bank** lends money." in asked.text
    assert asked.number_of(river) != asked.number_of(money)


def test_the_text_has_the_candidates_numbered(image: ImageInput) -> None:
    asked = ask_about(RUBRIC, image, REGION, [*WORDS, Shown("two\nlines"), Shown("{candidates}")])
    numbered = [f"{number}. {' '.join(shown.word.split())}" for number, shown in enumerate(asked.candidates, start=1)]
    assert asked.text.endswith("\n".join(numbered))
    assert "{candidates}" in numbered[asked.number_of(Shown("{candidates}"))]


def red_frame(shown: np.ndarray[Any, Any]) -> tuple[int, int, int, int]:
    """First and last row and column that hold pure red."""
    rows, columns = np.nonzero((shown == (255, 0, 0)).all(axis=2))
    return int(rows.min()), int(columns.min()), int(rows.max()), int(columns.max())


def test_the_marked_image(image: ImageInput) -> None:
    asked = ask_about(RUBRIC, image, REGION, WORDS)
    shown = np.asarray(asked.marked).astype(int)
    assert shown.shape == (256, 512, 3)  # 2.56 times as large
    expected = [end * 2.56 for end in (20, 40, 50, 100)]
    assert np.allclose(red_frame(shown), expected, atol=1)
    assert np.allclose(shown[10, 10], (0, 160, 0), atol=2)  # outside nothing is changed
    inside = shown[90, 180]
    assert inside[0] > 15  # a thin red veil
    assert inside[2] > 150  # through which the region is seen
    assert np.asarray(image.pixels).max() == 200  # the image itself has no frame


def test_without_a_region_nothing_is_marked(image: ImageInput) -> None:
    shown = np.asarray(Question(RUBRIC, image).marked)
    assert shown.shape == (256, 512, 3)
    assert not (shown == (255, 0, 0)).all(axis=2).any()


def test_a_region_at_the_edge_is_framed_where_it_can_be(image: ImageInput) -> None:
    asked = ask_about(RUBRIC, image, replace(REGION, box=(0.0, 100.0, 100.0, 200.0)), WORDS)
    assert np.allclose(red_frame(np.asarray(asked.marked)), (0, 256, 255, 511), atol=1)


def test_tall_and_small_images_have_their_longer_side_at_512() -> None:
    tall = open_image(Image.new("RGB", (3, 40)), name="tall")
    assert Question(RUBRIC, tall).marked.size == (38, 512)


def test_the_crop_is_the_region_alone(image: ImageInput) -> None:
    crop = ask_about(RUBRIC, image, REGION, WORDS).crop
    assert crop.size == (96, 48)  # from 60 by 30
    assert np.allclose(np.asarray(crop), (0, 0, 200), atol=2)  # no frame, and nothing from around it


def test_a_large_region_is_not_enlarged(image: ImageInput) -> None:
    crop = ask_about(RUBRIC, image, replace(REGION, box=(0.0, 0.0, 100.0, 150.0)), WORDS).crop
    assert crop.size == (150, 100)


def test_a_region_of_less_than_a_pixel_can_be_seen(image: ImageInput) -> None:
    crop = ask_about(RUBRIC, image, replace(REGION, box=(30.2, 50.2, 30.4, 50.4)), WORDS).crop
    assert crop.size == (96, 96)


def test_what_is_not_there_cannot_be_shown(image: ImageInput) -> None:
    with pytest.raises(OptionError, match="has no image to show"):
        _ = Question(RUBRIC).marked
    with pytest.raises(OptionError, match="has no region to show alone"):
        _ = Question(RUBRIC, image).crop
    with pytest.raises(OptionError, match="has no image to show"):
        _ = Question(RUBRIC, None, REGION).crop
