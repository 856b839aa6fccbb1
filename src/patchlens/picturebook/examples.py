"""`python -m patchlens.picturebook.examples`: draw the scenes that ship with the package, with their truth."""

import argparse
from pathlib import Path

from patchlens.picturebook.command import run
from patchlens.picturebook.parts import GRID
from patchlens.picturebook.scene import FIRST_SCENE, draw, sample_scene
from patchlens.picturebook.truth import scene_truth

__all__ = ["EXAMPLES", "main"]

EXAMPLES: dict[str, int] = {
    name: FIRST_SCENE["examples"] + n for name, n in (("harbor", 17), ("mountain", 40), ("park", 29))
}
"""Name to seed; chosen for variety before any model read them. The park has a sign."""


_SCALE = 4  # the page shows them large; the model's processor brings them back to its own size


def main(arguments: list[str] | None = None) -> None:
    """Write `<name>.png` and `<name>.json` for every example."""
    parser = argparse.ArgumentParser(prog="python -m patchlens.picturebook.examples", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "examples")
    out: Path = parser.parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    for name, seed in EXAMPLES.items():
        scene = sample_scene(seed)
        drawing = draw(scene)
        draw(scene, _SCALE).image.save(out / f"{name}.png", optimize=True)
        scene_truth(scene, drawing.owner, GRID, name).save(out / f"{name}.json")


if __name__ == "__main__":
    run(main)
