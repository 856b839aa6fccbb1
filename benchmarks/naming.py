"""What the lenses say of the embedded model, against what is truly there.

    python benchmarks/naming.py [--scenes 200] [--k 5] [--out naming.json]

Reads the shipped scenes and held-out ones that neither training nor the model's card uses, with every lens at every
layer, and prints the share of visual tokens whose top-k name the truth, with 95 % intervals over scenes,
beside random rows of the bank.

    there    object, color, written word or place of the patch, or the kind of its object
    scene    that, or something elsewhere in the scene
"""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import patchlens as pl
from patchlens.evaluation.naming import WHAT, Share, name_shares
from patchlens.evaluation.truth import SceneTruth, open_truth
from patchlens.inputs.image import ImageInput, open_image
from patchlens.lenses.baseline import RandomLens
from patchlens.lenses.reading import Readings
from patchlens.models.model import Model
from patchlens.picturebook import EMBEDDED
from patchlens.picturebook.parts import GRID
from patchlens.picturebook.scene import FIRST_SCENE, draw, scenes
from patchlens.picturebook.truth import scene_truth
from patchlens.storage import write_json


def shipped() -> Iterator[tuple[ImageInput, SceneTruth]]:
    """The example scenes that come with the package."""
    assert EMBEDDED.examples is not None
    for path in sorted(EMBEDDED.examples.glob("*.png")):
        yield open_image(path), open_truth(path.with_suffix(".json"))


def held_out(count: int) -> Iterator[tuple[ImageInput, SceneTruth]]:
    """Fresh scenes, drawn here."""
    for scene in scenes(FIRST_SCENE["naming"], count):
        drawing, name = draw(scene), f"scene {scene.seed}"
        yield open_image(drawing.image, name=name), scene_truth(scene, drawing.owner, GRID, name)


def measure(model: Model, pictures: Iterable[tuple[ImageInput, SceneTruth]], k: int) -> tuple[Share, ...]:
    """Read every picture with every lens and count."""
    bank = pl.open_bank("picturebook")
    lenses = (pl.LatentLens(bank), pl.EmbeddingLens(model), pl.LogitLens(model), RandomLens(bank))
    readings, truths = [], {}
    started = time.monotonic()
    for number, (image, truth) in enumerate(pictures, start=1):
        states = pl.capture(model, image)
        readings += [lens.read(states, k=k) for lens in lenses]
        truths[image.name] = truth
        if number % 20 == 0:
            print(f"  {number} scenes in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return name_shares(Readings.join(readings), truths)


def show(title: str, shares: tuple[Share, ...]) -> None:
    """Print one table per region."""
    by = {(s.lens, s.layer, s.region, s.what): s for s in shares}
    lenses = sorted({s.lens for s in shares}, key=("latent", "embedding", "logit", "random").index)
    layers = sorted({s.layer for s in shares})
    print(f"\n{title}")
    for region in ("object", "background"):
        tokens = by[lenses[0], layers[0], region, "there"].tokens
        print(f"\n  {region} patches ({tokens:,} visual tokens)")
        for what in ("there", "scene"):
            print(f"    {what:6}" + "".join(f"{lens:>27}" for lens in lenses))
            for layer in layers:
                cells = (str(by[lens, layer, region, what]) for lens in lenses)
                print(f"    {layer:<6}" + "".join(f"{cell:>27}" for cell in cells))
        print("    each category alone, among the tokens that have one; best of the layers, chosen on these scenes")
        for what in WHAT[:6]:
            best = (max((by[lens, layer, region, what] for layer in layers), key=lambda s: s.share) for lens in lenses)
            print(f"    {what:9}" + "".join(f"{f'{s} @{s.layer}' if s.tokens else '–':>27}" for s in best))


def main() -> None:
    """Run, print, and write the rows if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model = pl.load_model("picturebook")
    few, many = measure(model, shipped(), options.k), measure(model, held_out(options.scenes), options.k)
    show(f"the shipped scenes, top {options.k}", few)
    show(f"{options.scenes} held-out scenes from seed {FIRST_SCENE['naming']:,}, top {options.k}", many)
    if options.out:
        write_json(
            options.out, {"k": options.k, "shipped": [asdict(s) for s in few], "held_out": [asdict(s) for s in many]}
        )


if __name__ == "__main__":
    main()
