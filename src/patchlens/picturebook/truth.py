"""What is true of a drawn scene: of every patch, from its exact mask, and what a description should say."""

import numpy as np
from numpy.typing import NDArray

from patchlens.evaluation.truth import CaptionTruth, PatchTruth, SceneTruth, Vocabulary
from patchlens.picturebook.scene import Scene
from patchlens.picturebook.world import COLORS, PLACES, THINGS, plural

__all__ = ["caption_truth", "patch_cover", "scene_truth"]

_VOCABULARY = Vocabulary(frozenset(THINGS), frozenset(COLORS), frozenset(PLACES))

_SEEN = 0.10
"""Share of a patch's pixels that something must own to be said to stand in it."""


def patch_cover(owner: NDArray[np.uint8], owners: int, grid: int) -> NDArray[np.float32]:
    """Share of every patch that each owner has.

    Args:
        owner: [height, width], see `scene.Drawing`.
        owners: How many owners are told apart, the background (0) among them.
        grid: Rows and columns of patches.

    Returns:
        [owner, patch], patches row by row; every patch sums to 1.
    """
    side = len(owner) // grid
    blocks = owner.reshape(grid, side, grid, side).transpose(0, 2, 1, 3).reshape(grid * grid, side * side)
    return np.stack([(blocks == number).mean(1, dtype=np.float32) for number in range(owners)])


def scene_truth(scene: Scene, owner: NDArray[np.uint8], grid: int, name: str) -> SceneTruth:
    """The words that are true of a scene, patch by patch.

    Args:
        scene: What was drawn.
        owner: Its mask, see `scene.Drawing`.
        grid: Rows and columns of patches.
        name: The image's name in readings.
    """
    cover = patch_cover(owner, len(scene.things) + 2, grid)
    there = cover[1:] >= _SEEN
    words = [_of_thing(thing.name, thing.color) for thing in scene.things]
    if scene.sign is not None:
        words.append({"thing": {"sign", "signs"}, "word": {scene.sign.word}})
    patches = []
    for patch in range(grid * grid):
        mine = [words[i] for i in range(len(words)) if there[i, patch]]
        others = [words[i] for i in range(len(words)) if not there[i, patch]]
        named = {
            key: frozenset(w for about in mine for w in about.get(key, ()))
            for key in ("thing", "color", "word", "kind")
        }
        said = frozenset().union(*named.values())
        elsewhere = frozenset(w for about in others for group in about.values() for w in group) - said
        patches.append(
            PatchTruth(bool(mine), place=frozenset({scene.place, plural(scene.place)}), elsewhere=elsewhere, **named)
        )
    return SceneTruth(name, grid, grid, tuple(patches))


def caption_truth(scene: Scene) -> CaptionTruth:
    """What a description of a scene should say; the color of a thing that comes in one alone is not worth saying."""
    things = tuple((thing.name, thing.color if THINGS[thing.name].recolorable else None) for thing in scene.things)
    return CaptionTruth(things, scene.place, (scene.sign.word,) if scene.sign else (), _VOCABULARY)


def _of_thing(name: str, color: str) -> dict[str, set[str]]:
    kind = THINGS[name].kind
    return {"thing": {name, plural(name)}, "color": {color}, "kind": {kind, plural(kind)}}
