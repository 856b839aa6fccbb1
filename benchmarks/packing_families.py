"""Which model families can be packed, and how closely packed hidden states are those of one sentence at a time.

    python benchmarks/packing_families.py [--out families.json]

Makes the tiny random models of tests/conformance, of every causal family that transformers has, and prints what the
page docs/findings/2026-11-21-which-models-can-be-packed.md says. Float32; differences are relative to a state's length,
the worst of all positions and layers.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import torch
import transformers

from patchlens.models.families.causal import CausalAdapter
from patchlens.models.loading import load_model
from patchlens.models.masking import why_not_packed
from patchlens.models.quiet import quiet
from patchlens.storage import write_json

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from conformance.causal import LONGEST, ONE_A_ROW, QUARANTINE, VARIANTS, tiny_folder
from conformance.tries import implementations, one_by_one, packed_difference, row_difference, tries
from conftest import make_tokenizer


@dataclass(frozen=True)
class Row:
    """One family under one attention implementation."""

    name: str
    attention: str
    why_not: str | None
    packed: float | None
    """None where it cannot be packed."""
    in_rows: float


def measure(name: str, tokenizer: object) -> Iterator[Row]:
    """Both ways of running a family, against one sentence at a time."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        model = load_model(tiny_folder(name, Path(folder), tokenizer))
    packs = tries(len(tokenizer))
    why_not = why_not_packed(model, LONGEST)
    for attention in implementations(model):
        expected = one_by_one(model, packs)
        together = None if why_not else packed_difference(model, packs, expected)
        yield Row(name, attention, why_not, together, row_difference(model, packs, expected))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = make_tokenizer()
    types = CausalAdapter.model_types
    rows = [row for name in (*types, *VARIANTS) if name not in QUARANTINE for row in measure(name, tokenizer)]
    packed = [row for row in rows if row.packed is not None]
    names = {row.name for row in packed}
    print(f"transformers {transformers.__version__}: {len(types)} causal families")
    print(f"packed         {len(names & {*types}):4}  and {len(names & {*VARIANTS})} variants")
    print(f"one a row      {len({*ONE_A_ROW} & {*types}):4}  and {len({*ONE_A_ROW} & {*VARIANTS})} variants")
    print(f"cannot be read {len(QUARANTINE):4}\n")
    for attention in ("sdpa", "eager"):
        here = [row for row in packed if row.attention == attention]
        print(f"packed, {attention}: {len(here)} models; the furthest from one by one:")
        for row in sorted(here, key=lambda row: -row.packed)[:5]:
            print(f"    {row.packed:.1e}  {row.name}")
    print(f"in rows: {len(rows)} models and attentions; the furthest from one by one:")
    for row in sorted(rows, key=lambda row: -row.in_rows)[:5]:
        print(f"    {row.in_rows:.1e}  {row.name} ({row.attention})")
    print("\none a row, because")
    refused = sorted({(row.why_not, row.name) for row in rows if row.why_not})
    for why, together in groupby(refused, key=lambda pair: pair[0]):
        print(f"    {why}: {', '.join(name for _, name in together)}")
    print("\ncannot be read, because")
    quarantined = sorted((why, name) for name, (why, _) in QUARANTINE.items())
    for why, together in groupby(quarantined, key=lambda pair: pair[0]):
        print(f"    {why}: {', '.join(name for _, name in together)}")
    if chosen.out:
        write_json(chosen.out, [asdict(row) for row in rows])


if __name__ == "__main__":
    main()
