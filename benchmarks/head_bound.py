"""Could fewer dimensions settle most of a search? A rotation with a short head, and Cauchy and Schwarz for the rest.

    python benchmarks/head_bound.py [--out head_bound.json]     some 5 minutes

Rows are rotated so that their strongest directions come first. Of the first h dimensions the product is computed, of
the rest it is known to lie within the product of both lengths there. A row whose sum of the two is below the k-th best
similarity needs no further look. Counted, with the true k-th similarity as the threshold, better than any search knows:

    tail          mean length of what the head leaves of a row, and of a query
    left          rows that still need a look, of all: mean and median over queries
    int8          the same if the rest is known from its product in 8-bit integers: median of rows
    no head       the same of all dimensions in 8-bit integers without rotation: median of rows

Three sets: hidden states of the embedded model (its bank, asked with visual tokens of held-out scenes), of a random
Llama of width 2,048 that reads the reference package's corpus, and made-up rows near 64 directions (see search.py).
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import _reference as reference
import patchlens as pl
from _measure import table
from naming import held_out
from patchlens.storage import write_json
from search import hidden_states, low_rank

K = 5
HEADS = (32, 64, 128, 256, 512, 1024)
ROWS, QUERIES, WIDTH = 10_000, 200, 2048

Row = dict[str, Any]


def unit(vectors: Tensor) -> Tensor:
    """Directions in float32."""
    return torch.nn.functional.normalize(vectors.float(), dim=1)


def rounded(vectors: Tensor) -> Tensor:
    """In 8-bit integers with one scale a row, and back."""
    scale = vectors.abs().amax(dim=1, keepdim=True) / 127
    return (vectors / scale).round() * scale


def length(vectors: Tensor) -> Tensor:
    """Of each row."""
    return torch.linalg.vector_norm(vectors, dim=1)


def counted(name: str, rows: Tensor, queries: Tensor) -> Iterator[Row]:
    """Rows that need a look, for heads of several lengths."""
    similarities = queries @ rows.T
    kth = similarities.topk(K, dim=1).values[:, -1:]

    def margin(asked: Tensor, among: Tensor) -> Tensor:
        """What rounding both to 8 bits can do to their product."""
        query, row = length(asked - rounded(asked)), length(among - rounded(among))
        return query[:, None] * length(among) + length(rounded(asked))[:, None] * row

    def needed(bound: Tensor) -> Tensor:
        return (bound >= kth).sum(dim=1).float()

    no_head = needed(similarities + 2 * margin(queries, rows)).median()
    strongest = torch.linalg.eigh((rows.T @ rows).double()).eigenvectors.flip(1).float()
    rows, queries = rows @ strongest, queries @ strongest
    for head in (head for head in HEADS if head < rows.shape[1]):
        tails = length(queries[:, head:]), length(rows[:, head:])
        left = needed(queries[:, :head] @ rows[:, :head].T + tails[0][:, None] * tails[1])
        known = needed(similarities + 2 * margin(queries[:, head:], rows[:, head:]))
        yield {
            "rows_of": name,
            "width": rows.shape[1],
            "rows": len(rows),
            "head": head,
            "tail_of_rows": float(tails[1].mean()),
            "tail_of_queries": float(tails[0].mean()),
            "left_mean": float(left.mean() / len(rows)),
            "left_median": float(left.median() / len(rows)),
            "int8": int(known.median()),
            "no_head": int(no_head),
        }


def embedded() -> tuple[Tensor, Tensor]:
    """The embedded model's bank, and visual tokens."""
    bank, model = pl.open_bank("picturebook"), pl.load_model("picturebook")
    states = [pl.capture(model, image, layers="0,2,4,6").vectors.flatten(0, 1) for image, _ in held_out(8)]
    asked = torch.cat(states)
    return torch.cat([unit(bank.vectors(layer)) for layer in bank.layers]), unit(asked[:: -(-len(asked) // QUERIES)])


def main() -> None:
    """Count, print, and write the rows if asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reference", type=Path, default=Path("runs/reference"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.reference.mkdir(parents=True, exist_ok=True)
    found = [*counted("embedded model", *embedded())]
    print("  embedded model", file=sys.stderr)
    lines = reference.install(options.reference).corpus()
    with tempfile.TemporaryDirectory() as work:
        states, asked = hidden_states(lines, ROWS, WIDTH, QUERIES, Path(work))
    found += counted("random Llama", unit(torch.cat([*states.values()])), unit(asked))
    print("  random Llama", file=sys.stderr)
    states, asked = low_rank(ROWS, WIDTH, QUERIES, seed=0)
    found += counted("near 64 directions", unit(torch.cat([*states.values()])), unit(asked))
    print(table(found, tuple(found[0])))
    if options.out:
        write_json(options.out, found)


if __name__ == "__main__":
    main()
