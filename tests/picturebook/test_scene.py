import hashlib

import numpy as np
import pytest

from patchlens.picturebook.scene import CANVAS, draw, sample_scene, scenes
from patchlens.picturebook.truth import patch_cover, scene_truth
from patchlens.picturebook.world import SIGN_WORDS, THINGS

GOLDEN = "f59ba54d7adecacb97b814d8f59e30055e40b7ca009b7158c5e4d1baafcf68d7"
"""SHA-256 of the pixels of scene 30,000,017; recorded on Linux x86-64 with Python 3.11 and resvg_py 0.5.0."""


def test_a_seed_gives_the_same_scene_on_every_machine() -> None:
    scene = sample_scene(30_000_017)
    assert scene.place == "harbor"
    assert [(thing.name, thing.color) for thing in scene.things] == [("pear", "yellow"), ("cat", "brown")]
    assert sample_scene(7) == sample_scene(7)
    assert sample_scene(7) != sample_scene(8)
    assert hashlib.sha256(draw(scene).pixels.tobytes()).hexdigest() == GOLDEN


def test_scenes_have_what_is_promised() -> None:
    sample = list(scenes(0, 300))
    assert {len(scene.things) for scene in sample} == {1, 2, 3, 4}
    assert 0.25 < sum(scene.sign is not None for scene in sample) / 300 < 0.45
    assert {thing.flipped for scene in sample for thing in scene.things} == {False, True}
    assert len({thing.size for scene in sample for thing in scene.things}) >= 5
    assert len({thing.name for scene in sample for thing in scene.things}) == len(THINGS)
    assert len({scene.sign.word for scene in scenes(0, 1500) if scene.sign}) == len(SIGN_WORDS)


def test_elements_are_inside_the_canvas() -> None:
    for scene in scenes(0, 300):
        for element in scene.left_to_right:
            top, left, bottom, right = element.box
            assert min(top, left) >= 0
            assert max(bottom, right) <= CANVAS


def test_the_mask_is_exact() -> None:
    """Where the mask says background, taking everything away changes nothing; elsewhere something is seen."""
    for scene in scenes(40, 12):
        drawing = draw(scene)
        empty = draw(type(scene)(scene.seed, scene.place, (), None)).pixels
        changed = (drawing.pixels != empty).any(-1)
        owned = drawing.owner > 0
        assert set(np.unique(drawing.owner)) == set(range(len(scene.left_to_right) + 1))
        # Antialiased rims that cover less than half a pixel belong to the background.
        assert (changed & ~owned).mean() < 0.03
        assert (owned & ~changed).mean() < 0.005


def test_nothing_is_hidden() -> None:
    for scene in scenes(0, 60):
        drawing = draw(scene)
        for number, thing in enumerate(scene.things, start=1):
            alone = draw(type(scene)(scene.seed, scene.place, (thing,), None)).owner == 1
            assert (drawing.owner == number).sum() > 0.75 * alone.sum()


def test_patch_cover_sums_to_one_and_agrees_with_counting() -> None:
    scene = sample_scene(3)
    owner = draw(scene).owner
    cover = patch_cover(owner, len(scene.things) + 2, 12)
    assert cover.sum(0) == pytest.approx(1.0)
    side = CANVAS // 12
    for patch in (0, 17, 80, 143):
        row, column = divmod(patch, 12)
        pixels = owner[row * side : (row + 1) * side, column * side : (column + 1) * side]
        assert cover[1, patch] == pytest.approx((pixels == 1).mean())


def test_truth_says_what_is_in_a_patch_and_what_is_elsewhere() -> None:
    scene = sample_scene(30_000_029)  # a park with a sign
    drawing = draw(scene)
    truth = scene_truth(scene, drawing.owner, 12, "park")
    assert scene.sign is not None
    row, column = scene.sign.y * 12 // CANVAS, scene.sign.x * 12 // CANVAS
    sign = truth.at(row, column)
    assert sign.on_object
    assert scene.sign.word in sign.word
    corner = truth.at(0, 0)
    assert not corner.on_object
    assert not corner.thing
    assert "park" in corner.place
    assert {thing.name for thing in scene.things} <= corner.elsewhere
    for patch in truth.patches:
        assert not patch.elsewhere & (patch.thing | patch.color | patch.word | patch.kind)


def test_scale_draws_the_same_scene_larger() -> None:
    scene = sample_scene(30_000_029)
    small, large = draw(scene), draw(scene, 3)
    assert large.pixels.shape == (3 * CANVAS, 3 * CANVAS, 3)
    assert (large.owner[1::3, 1::3] == small.owner).mean() > 0.98
    averaged = large.pixels.reshape(CANVAS, 3, CANVAS, 3, 3).mean((1, 3))
    assert np.abs(averaged - small.pixels).mean() < 4
