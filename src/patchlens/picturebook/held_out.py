"""Scenes that nothing was trained on, drawn for studies, with all that is known of them."""

from collections.abc import Iterator

from patchlens.errors import OptionError
from patchlens.evaluation.truth import Known
from patchlens.inputs.image import open_image
from patchlens.picturebook.parts import GRID
from patchlens.picturebook.scene import FIRST_SCENE, draw, scenes
from patchlens.picturebook.truth import caption_truth, scene_truth

__all__ = ["held_out"]


def held_out(count: int, first: int = 0) -> Iterator[Known]:
    """Draw scenes, each when it is asked for.

    Args:
        count: How many.
        first: Number of the first one; the same number is the same scene on every machine.

    Raises:
        OptionError: A number below 0.
        MissingExtra: resvg is not installed.
    """
    if count < 0 or first < 0:
        raise OptionError(f"Drawing {count} scenes from number {first} on: expected numbers from 0 on.")
    for scene in scenes(FIRST_SCENE["study"] + first, count):
        drawing, name = draw(scene), f"scene {scene.seed}"
        truth = scene_truth(scene, drawing.owner, GRID, name)
        yield Known(open_image(drawing.image, name=name), truth, caption_truth(scene))
