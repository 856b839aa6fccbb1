"""When it helps to take the bank's mean and spread off before cosines are taken.

    python benchmarks/spaces.py [--scenes 60] [--out spaces.json]     some 5 minutes

Real: what LatentLens names in the embedded model, per space; the share of visual tokens on objects whose top five name
the object, its color or its kind, a written word or the place, with 95 % intervals over scenes, by layer of the token.

Made up: rows and queries around 2,000 centres, width 1,024, entries of size 1, with rogue dimensions as some language
models have them: three entries that are so many times larger, the same in all rows up to a tenth. The share of queries
whose nearest row is of their own centre.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import patchlens as pl
from naming import held_out
from patchlens.evaluation.naming import name_shares
from patchlens.lenses.reading import Readings
from patchlens.search import ExactIndex, MemoryRows
from patchlens.search.space import SPACES
from patchlens.storage import write_json

SIZES = (0, 3, 10, 30, 100, 300)
CENTRES, EACH, WIDTH = 2000, 10, 1024
ROGUE = (1.0, -0.7, 0.4)


def named(scenes: int) -> list[dict[str, Any]]:
    """What the lens names in each space."""
    model, bank = pl.load_model("picturebook"), pl.open_bank("picturebook")
    lenses = {space: pl.LatentLens(bank, space=space) for space in SPACES}
    readings: dict[str, list[Readings]] = {space: [] for space in SPACES}
    truths = {}
    for image, truth in held_out(scenes):
        states = pl.capture(model, image)
        truths[image.name] = truth
        for space, lens in lenses.items():
            readings[space].append(lens.read(states, k=5))
    rows = []
    for space, parts in readings.items():
        for share in name_shares(Readings.join(parts), truths):
            if (share.region, share.what) == ("object", "there"):
                rows.append({"space": space, "layer": share.layer, "named": str(share), "share": share.share})
    return rows


def own_centre(size: float, seed: int = 0) -> dict[str, float]:
    """Share of queries whose nearest row is of their centre, by space."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(CENTRES, WIDTH, generator=generator)

    def drawn(of: Tensor) -> Tensor:
        vectors = centres[of] + torch.randn(len(of), WIDTH, generator=generator) * 1.5
        for place, factor in enumerate(ROGUE):
            vectors[:, place] += size * factor * (1 + 0.1 * torch.randn(len(of), generator=generator)) * WIDTH**0.5 / 3
        return vectors

    kinds = torch.arange(CENTRES).repeat(EACH)
    rows, asked = MemoryRows((0,), [drawn(kinds)]), torch.arange(CENTRES)
    queries = drawn(asked)
    return {
        space: float((kinds[ExactIndex(rows, space=space).search(queries, 1).rows[:, 0]] == asked).float().mean())
        for space in SPACES
    }


def table(rows: Sequence[dict[str, Any]], key: str, value: str) -> str:
    """Spaces side by side."""
    lines = [f"{key:>8}" + "".join(f"{space:>28}" for space in SPACES)]
    for each in dict.fromkeys(row[key] for row in rows):
        cells = [next(str(row[value]) for row in rows if (row[key], row["space"]) == (each, space)) for space in SPACES]
        lines.append(f"{each:>8}" + "".join(f"{cell:>28}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    """Run, print, and write the rows if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    made_up = [
        {"size": size, "space": space, "share": round(share, 4)}
        for size in SIZES
        for space, share in own_centre(size).items()
    ]
    print(table(made_up, "size", "share"))
    sys.stdout.flush()
    real = named(options.scenes)
    print(table(real, "layer", "named"))
    if options.out:
        write_json(options.out, {"scenes": options.scenes, "real": real, "made_up": made_up})


if __name__ == "__main__":
    main()
