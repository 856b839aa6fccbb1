"""What may still be among the best matches of each query, while rows stream by. Knows neither rows nor arithmetic."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchlens.axes import Bool, Float, Int

__all__ = ["Best", "Pairs", "Pool"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Queries with rows, and bounds on their similarity as it is reported. In the order in which rows stream by."""

    query: Int[Tensor, " pair"]
    layer: Int[Tensor, " pair"]
    row: Int[Tensor, " pair"]
    lower: Float[Tensor, " pair"]
    """float32."""
    upper: Float[Tensor, " pair"]
    """float32."""

    def __len__(self) -> int:
        """Pairs."""
        return len(self.query)

    def __getitem__(self, which: Any) -> "Pairs":
        """Some of them."""
        return Pairs(*(getattr(self, field.name)[which] for field in fields(self)))

    @classmethod
    def joined(cls, parts: list["Pairs"]) -> "Pairs":
        """One after the other."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))


@dataclass(frozen=True, eq=False)
class Best:
    """The best matches of each query that are certain, in order; similarity -infinity where there is none yet."""

    rows: Int[Tensor, "query k"]
    layers: Int[Tensor, "query k"]
    similarities: Float[Tensor, "query k"]
    """float32, as reported."""

    @classmethod
    def none(cls, queries: int, k: int) -> "Best":
        """Nothing found yet."""
        empty = torch.full((queries, k), -1, dtype=torch.long)
        return cls(empty, empty.clone(), torch.full((queries, k), -torch.inf))

    def put(self, queries: Int[Tensor, " put"], other: "Best", which: Bool[Tensor, " other"]) -> None:
        """Take over what was found for some queries, in place."""
        self.rows[queries] = other.rows[which]
        self.layers[queries] = other.layers[which]
        self.similarities[queries] = other.similarities[which]


class Pool:
    """Candidates of each query: certain ones, and pairs of which only bounds are known.

    Rows are added in the order (layer, row), in which ties are decided: of equal similarities the first one added
    wins. So a row has a chance only if its similarity can be above `floor`, which k others reach already.
    """

    def __init__(self, queries: int, k: int, groups: Int[Tensor, " row"] | None = None) -> None:
        """Begin with nothing.

        Args:
            queries: How many.
            k: Matches wanted of each.
            groups: A number for each row; of rows with the same one only the best counts. None to count each.
        """
        self.best = Best.none(queries, k)
        self.floor = torch.full((queries,), -torch.inf, dtype=torch.float64)
        """For each query: k matches of different groups are certain to reach this. Infinite where it was given up."""
        self._k = k
        self._groups = groups
        self._pending: list[Pairs] = []
        self._size = self._kept = 0

    def __len__(self) -> int:
        """Pairs that are not settled."""
        return self._size

    def add(self, pairs: Pairs) -> None:
        """Put pairs in, all of them later in the order than all so far."""
        if len(pairs):
            self._pending.append(pairs)
            self._size += len(pairs)

    @property
    def grown(self) -> bool:
        """Pruning would pay: there are twice as many pairs as it left behind."""
        return self._size > 2 * self._kept + len(self.floor) * min(self._k, 64)

    def prune(self) -> Int[Tensor, " query"]:
        """Raise the floor by what is known, and drop the pairs below it.

        Returns:
            How many pairs each query has left.
        """
        queries = len(self.floor)
        if not self._size:
            return torch.zeros(queries, dtype=torch.long)
        pairs = Pairs.joined(self._pending)
        lower = torch.cat([self.best.similarities.flatten(), pairs.lower])
        owner = torch.cat([torch.arange(queries).repeat_interleave(self._k), pairs.query])
        reached = pairs.lower
        if self._groups is not None:
            groups = self._group(torch.cat([self.best.rows.flatten(), pairs.row]))
            codes, number = torch.unique(owner * (len(self._groups) + 1) + groups, return_inverse=True)
            lower = torch.full((len(codes),), -torch.inf).scatter_reduce(0, number, lower, "amax")
            owner = codes // (len(self._groups) + 1)
            reached = lower[number[-len(pairs) :]]
        self.floor = torch.maximum(self.floor, _kth(owner, lower, queries, self._k))
        keep = pairs.upper >= self.floor[pairs.query]
        if self._groups is not None:
            keep &= pairs.upper >= reached
        self._set(pairs[keep])
        return torch.bincount(pairs.query[keep], minlength=queries)

    def give_up(self, queries: Bool[Tensor, " query"]) -> None:
        """Let some queries go: nothing is kept of them, and nothing has a chance any more."""
        self.floor[queries] = torch.inf
        if self._size:
            pairs = Pairs.joined(self._pending)
            self._set(pairs[~queries[pairs.query]])

    def settle(self, similarity: Callable[[Pairs], Float[Tensor, " pair"]]) -> int:
        """Find out the similarity of all pairs, and keep of them what is among the best k.

        Args:
            similarity: Gives the similarities, as they are reported.

        Returns:
            How many pairs that were.
        """
        if not self._size:
            return 0
        pairs = Pairs.joined(self._pending)
        queries, k = self.best.rows.shape
        owner = torch.cat([torch.arange(queries).repeat_interleave(k), pairs.query])
        row = torch.cat([self.best.rows.flatten(), pairs.row])
        layer = torch.cat([self.best.layers.flatten(), pairs.layer])
        scores = torch.cat([self.best.similarities.flatten(), similarity(pairs)])
        order = _sorted(owner, scores)
        if self._groups is not None:
            codes = owner * (len(self._groups) + 1) + self._group(row)
            # Places that are empty are all of one group: they stay at the end, and one of them is enough.
            first = np.unique(codes[order].numpy(), return_index=True)[1]
            order = order[torch.from_numpy(np.sort(first))]
        start = torch.searchsorted(owner[order], torch.arange(queries + 1))
        place = start[:-1, None] + torch.arange(k)
        there = place < start[1:, None]
        top = order[place.clamp(max=len(order) - 1)]
        self.best = Best(
            rows=row[top].where(there, -1),
            layers=layer[top].where(there, -1),
            similarities=scores[top].where(there, -torch.inf),
        )
        self.floor = torch.maximum(self.floor, self.best.similarities[:, -1].double())
        self._set(pairs[:0])
        return len(pairs)

    def _group(self, rows: Int[Tensor, " any"]) -> Int[Tensor, " any"]:
        """Groups of rows, counted from 1; 0 for a place that is empty."""
        assert self._groups is not None
        return torch.where(rows < 0, 0, self._groups[rows.clamp(min=0)] + 1)

    def _set(self, pairs: Pairs) -> None:
        self._pending = [pairs]
        self._size = self._kept = len(pairs)


def _sorted(owner: Int[Tensor, " pair"], scores: Float[Tensor, " pair"]) -> Int[Tensor, " pair"]:
    """By query, then best first; two stable sorts, so that ties stay in the order in which they came."""
    order = scores.argsort(descending=True, stable=True)
    return order[owner[order].argsort(stable=True)]


def _kth(owner: Int[Tensor, " pair"], scores: Float[Tensor, " pair"], queries: int, k: int) -> Float[Tensor, " query"]:
    """The k-th highest score of each query in float64; -infinity where there are fewer."""
    order = _sorted(owner, scores)
    start = torch.searchsorted(owner[order], torch.arange(queries + 1))
    at = start[:-1] + k - 1
    there = at < start[1:]
    return scores[order[at.clamp(max=len(order) - 1)]].double().where(there, -torch.inf)
