"""What each stored type costs: neighbours, words and cosines against float32, on real hidden states and hard ones.

    python benchmarks/stored_types.py [--scenes 40] [--out rows.json]

Real: the embedded model's bank, built once in float32 and then rounded to each type, asked with visual tokens and
caption tokens of held-out scenes; the ranking runs over all layers of the bank. Hard: made-up rows in which a few
dimensions are much the same large number everywhere, as the rogue dimensions of some language models, and rows without.

    @1 @5 @10    share of float32's nearest k that are among the type's nearest k
    10 in 50     share of float32's nearest 10 that are among the type's nearest 50
    word         share of queries whose first word is float32's
    5 words      share of the words of float32's nearest 5 that are among those of the type's
    error        largest difference of a cosine, over float32's nearest 50 of all queries

Brackets: 95 % intervals over scenes, or over queries where the rows are made up.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import patchlens as pl
from patchlens.bank.encoding import DTYPES, encode, row_bytes
from patchlens.evaluation.intervals import clustered
from patchlens.models.model import Model
from patchlens.picturebook import EMBEDDED
from patchlens.picturebook.language import caption
from patchlens.picturebook.scene import FIRST_SCENE, draw, scenes
from patchlens.storage import write_json

UNSCALED = "float8_e4m3fn, no scale"
TYPES = (*DTYPES, UNSCALED)
RANKS = (1, 5, 10)
DEPTH = 50
QUERY_LAYERS = (0, 2, 4, 6, 8)
EVERY = 3  # of the visual tokens: neighbouring ones are alike

Share = tuple[float, float, float]


@dataclass(frozen=True)
class Queries:
    """Hidden states that are looked up."""

    name: str
    """What they are."""
    vectors: Tensor
    """[query, d_model]."""
    cluster: Tensor
    """Which scene each is from: queries of one scene are not independent."""


@dataclass(frozen=True)
class Cost:
    """What one type does to one set of queries. Shares come with the ends of their 95 % interval."""

    rows: str
    queries: str
    asked: int
    dtype: str
    bytes_per_row: int
    recall: dict[int, Share]
    ten_in_fifty: Share
    same_word: Share | None
    same_words: Share | None
    largest_error: float


def stored(vectors: Tensor, dtype: str) -> Tensor:
    """Unit rows as they would lie on the disk."""
    if dtype == UNSCALED:
        return vectors.to(torch.float8_e4m3fn)
    return encode(vectors, dtype).vectors


def nearest(rows: dict[int, Tensor], queries: Queries) -> Tensor:
    """The nearest rows over all layers, as numbers from 0 over layers and rows: [query, DEPTH].

    Not by `ExactIndex`, which gives the same: it proves every rank, and takes minutes where all cosines are alike.
    """
    found = []
    for asked in queries.vectors.split(250):
        directions = torch.nn.functional.normalize(asked.double(), dim=1)
        best = [
            (directions @ torch.nn.functional.normalize(part.double(), dim=1).T).topk(DEPTH, dim=1)
            for part in rows.values()
        ]
        offsets = torch.arange(len(rows)) * len(next(iter(rows.values())))
        numbers = torch.cat([at.indices + offset for at, offset in zip(best, offsets, strict=True)], dim=1)
        found.append(numbers.gather(1, torch.cat([at.values for at in best], dim=1).topk(DEPTH, dim=1).indices))
    return torch.cat(found)


def costs(
    name: str, unit: dict[int, Tensor], asked: tuple[Queries, ...], words: np.ndarray | None = None
) -> Iterator[Cost]:
    """Round rows to each type and compare with float32.

    Args:
        name: What the rows are.
        unit: Unit rows in float32, by layer.
        asked: What is looked up.
        words: A number for the word of each row, if rows have words.
    """
    exact = {queries.name: nearest(unit, queries) for queries in asked}
    for dtype in TYPES:
        rows = {layer: stored(vectors, dtype) for layer, vectors in unit.items()}
        for queries in asked:
            found = exact[queries.name] if dtype == "float32" else nearest(rows, queries)
            yield _cost(name, unit, rows, queries, exact[queries.name], found, words, dtype)
            print(f"  {name}, {queries.name}: {dtype}", file=sys.stderr)


def _cost(
    name: str,
    unit: dict[int, Tensor],
    rows: dict[int, Tensor],
    queries: Queries,
    exact: Tensor,
    found: Tensor,
    words: np.ndarray | None,
    dtype: str,
) -> Cost:
    d_model = queries.vectors.shape[1]
    first = second = None
    if words is not None:
        expected, given = (words[ranked[:, :5].numpy() % len(words)] for ranked in (exact, found))
        first = _share(torch.from_numpy(expected[:, 0] == given[:, 0]).double(), 1, queries)
        kept = torch.tensor([len(set(one) & set(other)) for one, other in zip(expected, given, strict=True)])
        second = _share(kept.double(), torch.tensor([len(set(one)) for one in expected]).double(), queries)
    return Cost(
        rows=name,
        queries=queries.name,
        asked=len(queries.vectors),
        dtype=dtype,
        bytes_per_row=d_model if dtype == UNSCALED else row_bytes(d_model, dtype),
        recall={k: _share(_overlap(exact[:, :k], found[:, :k]), k, queries) for k in RANKS},
        ten_in_fifty=_share(_overlap(exact[:, :10], found), 10, queries),
        same_word=first,
        same_words=second,
        largest_error=_largest_error(torch.cat(list(unit.values())), torch.cat(list(rows.values())), queries, exact),
    )


def _overlap(one: Tensor, other: Tensor) -> Tensor:
    """How many of one's are among the other's, for each query."""
    counts = [
        (a[:, :, None] == b[:, None, :]).any(2).sum(1) for a, b in zip(one.split(1000), other.split(1000), strict=True)
    ]
    return torch.cat(counts).double()


def _share(hits: Tensor, trials: Tensor | int, queries: Queries) -> Share:
    trials = torch.full_like(hits, trials) if isinstance(trials, int) else trials
    sums = [
        torch.zeros(int(queries.cluster.max()) + 1).double().index_add(0, queries.cluster, t) for t in (hits, trials)
    ]
    return float(hits.sum() / trials.sum()), *clustered(*(each.numpy() for each in sums))


def _largest_error(unit: Tensor, rounded: Tensor, queries: Queries, exact: Tensor) -> float:
    largest = 0.0
    for vectors, at in zip(queries.vectors.split(500), exact.split(500), strict=True):
        directions = torch.nn.functional.normalize(vectors.double(), dim=1)
        one, other = (
            torch.einsum("qd,qkd->qk", directions, torch.nn.functional.normalize(rows[at].double(), dim=2))
            for rows in (unit, rounded)
        )
        largest = max(largest, float((one - other).abs().max()))
    return largest


def of_scenes(model: Model, count: int) -> tuple[Queries, ...]:
    """Visual tokens and caption tokens of held-out scenes at several layers."""
    kept: dict[bool, list[tuple[Tensor, int]]] = {True: [], False: []}
    for number, scene in enumerate(scenes(FIRST_SCENE["naming"], count)):
        said = caption(scene, random.Random(scene.seed))
        states = pl.capture(model, draw(scene).image, said, layers=QUERY_LAYERS, positions="all")
        for visual in kept:
            places = (states.visual == visual).nonzero()[:, 0]
            places = places[::EVERY] if visual else places[places > 0]  # the first position is an attention sink
            kept[visual].append((states.vectors[:, places].flatten(0, 1).float(), number))
    return tuple(
        Queries(
            name,
            torch.cat([vectors for vectors, _ in kept[visual]]),
            torch.cat([torch.full((len(vectors),), number) for vectors, number in kept[visual]]),
        )
        for name, visual in (("visual tokens", True), ("text tokens", False))
    )


def real(count: int) -> Iterator[Cost]:
    """The embedded model's bank."""
    model = pl.load_model("picturebook")
    with tempfile.TemporaryDirectory() as folder:
        bank = pl.build_bank(model, EMBEDDED.corpus(), Path(folder) / "bank", **EMBEDDED.bank | {"dtype": "float32"})
        unit = {layer: bank.vectors(layer, unit=True) for layer in bank.layers}
        words = np.unique(bank.contexts["word"].to_numpy(), return_inverse=True)[1]
        yield from costs("picturebook", unit, of_scenes(model, count), words)


def made_up(size: float, rows: int = 20_000, asked: int = 2_000, d_model: int = 1024) -> Iterator[Cost]:
    """Rows around 2,000 centres, all entries of size 1, with three dimensions that are `size` times ±1 in every row."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(2_000, d_model, generator=generator)
    common = torch.zeros(d_model)
    common[[100, 500, 900]] = torch.tensor([1.0, -0.7, 0.4]) * size

    def around(count: int) -> Tensor:
        which = torch.randint(len(centres), (count,), generator=generator)
        return centres[which] + torch.randn(count, d_model, generator=generator)

    # What is rogue varies with the rest: its entries differ from row to row by a tenth of their size.
    def with_rogue(vectors: Tensor) -> Tensor:
        return vectors + common * (1 + 0.1 * torch.randn(len(vectors), 1, generator=generator))

    unit = {0: torch.nn.functional.normalize(with_rogue(around(rows)), dim=1)}
    queries = Queries("made-up queries", with_rogue(around(asked)), torch.arange(asked))
    yield from costs(f"rogue dimensions × {size:g}" if size else "no rogue dimensions", unit, (queries,))


def show(found: list[Cost]) -> None:
    """Print one table for each set of queries."""
    for rows, queries, asked in dict.fromkeys((cost.rows, cost.queries, cost.asked) for cost in found):
        print(f"\n{rows}, {asked:,} {queries}\n")
        print("| type | bytes a row | @1 | @5 | @10 | 10 in 50 | word | 5 words | error |")
        print("|---|---|---|---|---|---|---|---|---|")
        for cost in found:
            if (cost.rows, cost.queries) == (rows, queries):
                shares = (*cost.recall.values(), cost.ten_in_fifty, cost.same_word, cost.same_words)
                print(
                    f"| {cost.dtype} | {cost.bytes_per_row:,} | {' | '.join(map(percent, shares))} "
                    f"| {cost.largest_error:.1e} |"
                )


def percent(share: Share | None) -> str:
    """A share with its interval."""
    if share is None:
        return "–"
    return f"{100 * share[0]:.1f} % [{100 * share[1]:.1f}, {100 * share[2]:.1f}]"


def main() -> None:
    """Measure, print, and write the rows if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = list(real(options.scenes))
    found += [cost for size in (0, 10, 30, 100, 300) for cost in made_up(size)]
    show(found)
    if options.out:
        write_json(
            options.out, [asdict(cost) | {"recall": {str(k): v for k, v in cost.recall.items()}} for cost in found]
        )


if __name__ == "__main__":
    main()
