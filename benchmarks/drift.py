"""How far the blocks move visual and text tokens of the embedded model: `python benchmarks/drift.py [--scenes 50]`.

Prints, per layer, the mean length of the hidden states and their mean cosine with the same token's layer 0.
"""

import argparse

import torch
from torch import Tensor

import patchlens as pl
from patchlens.picturebook.scene import FIRST_SCENE, draw, scenes


def main() -> None:
    """Capture every scene once and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=50)
    options = parser.parse_args()
    model = pl.load_model("picturebook")
    rows: dict[bool, list[Tensor]] = {True: [], False: []}
    for scene in scenes(FIRST_SCENE["naming"], options.scenes):
        states = pl.capture(model, draw(scene).image, positions="all")
        for visual in rows:
            keep = states.visual == visual
            keep[0] = False  # the first position is an attention sink
            rows[visual].append(states.vectors[:, keep])
    print(f"{options.scenes} held-out scenes\nlayer   visual: length   cosine      text: length   cosine")
    both = [torch.cat(rows[visual], dim=1) for visual in (True, False)]
    for layer in range(len(both[0])):
        cells = []
        for vectors in both:
            cosine = torch.cosine_similarity(vectors[layer], vectors[0], dim=-1).mean()
            cells.append(f"{vectors[layer].norm(dim=-1).mean():14.2f}   {cosine:6.3f}")
        print(f"{layer:5}   {cells[0]}      {cells[1]}")


if __name__ == "__main__":
    main()
