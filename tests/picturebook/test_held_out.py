from itertools import pairwise

import pytest

from patchlens.errors import OptionError
from patchlens.models.embedded import embedded
from patchlens.picturebook.held_out import held_out
from patchlens.picturebook.scene import FIRST_SCENE, draw, sample_scene
from patchlens.picturebook.train import ENCODER, PROJECTOR
from patchlens.picturebook.truth import caption_truth, scene_truth


def test_all_that_is_known_is_of_the_same_scene() -> None:
    (known,) = held_out(1, first=4)
    scene = sample_scene(FIRST_SCENE["study"] + 4)
    drawing = draw(scene)
    assert known.image.name == known.truth.image == "scene 40000004"
    assert (known.image.pixels.tobytes(), known.image.size) == (drawing.pixels.tobytes(), (144, 144))
    assert known.truth == scene_truth(scene, drawing.owner, 12, "scene 40000004")
    assert known.caption == caption_truth(scene)


def test_a_number_is_a_scene() -> None:
    together = list(held_out(3))
    assert [known.image.name for known in together] == ["scene 40000000", "scene 40000001", "scene 40000002"]
    assert list(held_out(1, first=2)) == together[2:]
    assert len({known.image.sha256 for known in together}) == 3


def test_no_other_use_has_drawn_them() -> None:
    """Blocks of seeds, each from its first scene to the next block's; those of trainings end before they meet one."""
    firsts = sorted(FIRST_SCENE.items(), key=lambda item: item[1])
    room = {name: after - first for (name, first), (_, after) in pairwise(firsts)}
    assert room["study"] >= 100_000
    assert ENCODER.steps * 48 <= room["encoder"]
    assert PROJECTOR.steps * 32 <= room["projector"]
    others = {first + number for name, first in FIRST_SCENE.items() if name != "study" for number in range(2000)}
    assert not others & {FIRST_SCENE["study"] + number for number in range(100_000)}


@pytest.mark.parametrize(("count", "first"), [(-1, 0), (1, -1)])
def test_numbers_below_zero_would_be_of_another_block(count: int, first: int) -> None:
    with pytest.raises(OptionError, match="from 0 on"):
        list(held_out(count, first))


def test_the_embedded_model_offers_them() -> None:
    member = embedded("picturebook")
    assert member is not None
    assert member.held_out is not None
    assert [known.image.name for known in member.held_out(1, 7)] == ["scene 40000007"]
