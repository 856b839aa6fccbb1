"""From a plan's runs to what one forward pass takes: packs of runs, in which each shared prefix stands once.

A pack is a trie in depth-first order: the first run whole, of each further one what it does not share with the run
before it. Runs are never cut, so what a pack repeats of the pack before it is only what its first run shares.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from patchlens.axes import Bool, Int
from patchlens.bank.plan import Plan
from patchlens.bank.trie import Ints, Small

__all__ = ["Batch", "Packing", "Packs", "make_batches", "pack"]


@dataclass(frozen=True)
class Packing:
    """How a plan's runs are put into forward passes. The same packing gives the same bytes on the same machine."""

    packed: bool
    """Many runs in one sequence, kept apart by an explicit mask; otherwise one run a sequence."""
    positions: int
    """Token positions of a pack, at most, unless a single run is longer; without packing, of one forward pass."""
    packs: int
    """Packs side by side in one forward pass."""


@dataclass(frozen=True)
class Batch:
    """What one forward pass computes: consecutive runs, and the rows that belong to them."""

    runs: range
    """Runs of the plan."""
    rows: range
    """Rows of the bank."""
    packed: bool
    """Whether a pack may hold several runs."""
    cuts: tuple[int, ...]
    """Where each pack starts among the runs, and at the end where the last one ends."""
    positions: int
    """Prefixes that are run here and not in an earlier batch."""


@dataclass(frozen=True, eq=False)
class Packs:
    """A batch as tensors, and where its rows stand in them."""

    token_ids: Int[Tensor, "pack position"]
    """Padded on the right with token 0."""
    depths: Int[Tensor, "pack position"]
    """Tokens before each in its own run."""
    last: Int[Tensor, "pack position"]
    """Place of each token's last descendant in its pack; its own for padding."""
    real: Bool[Tensor, "pack position"]
    """False for padding."""
    pack_of_row: Int[Tensor, " row"]
    """The pack that each row stands in."""
    place_of_row: Int[Tensor, " row"]
    """Its place there."""

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids, depths and last descendants."""
        return self.token_ids, self.depths, self.last


def make_batches(plan: Plan, packing: Packing, runs: range) -> list[Batch]:
    """Cut consecutive runs into batches; the same runs and packing always give the same ones.

    Args:
        plan: What to run.
        packing: Its measures.
        runs: Which of the plan's runs; what the first shares with the run before it is run again.
    """
    lengths = np.diff(plan.starts[runs.start : runs.stop + 1])
    own = lengths - plan.shared[runs.start : runs.stop].astype(np.int64)
    if packing.packed:
        groups = _together(_packs_of(lengths, own, packing.positions), packing.packs)
    else:
        groups = _alone(lengths, packing.positions)
    batches = []
    for cuts in groups:
        here = range(runs.start + cuts[0], runs.start + cuts[-1])
        new = int(own[cuts[0] : cuts[-1]].sum())
        batches.append(Batch(here, plan.rows_of(here), packing.packed, tuple(runs.start + cut for cut in cuts), new))
    return batches


def pack(plan: Plan, batch: Batch) -> Packs:
    """Lay a batch's runs out as packs."""
    laid = [_one_pack(plan, range(*cut)) for cut in pairwise(batch.cuts)]
    width = max(len(ids) for ids, _, _, _ in laid)
    token_ids = np.zeros((len(laid), width), dtype=np.int64)
    depths = np.zeros_like(token_ids)
    last = np.tile(np.arange(width, dtype=np.int64), (len(laid), 1))
    real = np.zeros(last.shape, dtype=np.bool_)
    for number, (ids, depth, until, _) in enumerate(laid):
        token_ids[number, : len(ids)] = ids
        depths[number, : len(ids)] = depth
        last[number, : len(ids)] = until
        real[number, : len(ids)] = True
    pack_of_run = np.repeat(np.arange(len(laid), dtype=np.int64), np.diff(batch.cuts))
    place_of_run = np.concatenate([begins for _, _, _, begins in laid])
    rows = slice(batch.rows.start, batch.rows.stop)
    run = plan.run_of_row[rows] - batch.runs.start
    return Packs(
        torch.from_numpy(token_ids),
        torch.from_numpy(depths),
        torch.from_numpy(last),
        torch.from_numpy(real),
        torch.from_numpy(pack_of_run[run]),
        torch.from_numpy(place_of_run[run] + plan.positions[rows]),
    )


def _packs_of(lengths: Ints, own: Ints, positions: int) -> list[int]:
    """Where packs are cut: as many runs in each as fit."""
    total = np.concatenate([[0], np.cumsum(own)])
    cuts = [0]
    while cuts[-1] < len(lengths):
        start = cuts[-1]
        repeated = lengths[start] - own[start]
        stop = int(np.searchsorted(total, total[start] + positions - repeated, side="right")) - 1
        cuts.append(max(stop, start + 1))
    return cuts


def _together(cuts: list[int], packs: int) -> Iterator[tuple[int, ...]]:
    for start in range(0, len(cuts) - 1, packs):
        yield tuple(cuts[start : start + packs + 1])


def _alone(lengths: Ints, positions: int) -> Iterator[tuple[int, ...]]:
    """Each run a pack of its own, as many as fit with their padding."""
    start = 0
    while start < len(lengths):
        widest = np.maximum.accumulate(lengths[start : start + positions])
        fits = np.arange(1, len(widest) + 1, dtype=np.int64) * widest <= positions
        stop = start + max(1, int(fits.sum()))  # the padded size never falls
        yield tuple(range(start, stop + 1))
        start = stop


def _one_pack(plan: Plan, runs: range) -> tuple[Small, Ints, Ints, Ints]:
    """Token ids, depths and last descendants of a pack, and for each run where its first token would stand."""
    skip = plan.shared[runs.start : runs.stop].astype(np.int64)
    skip[0] = 0
    begin = plan.starts[runs.start : runs.stop] + skip
    end = plan.starts[runs.start + 1 : runs.stop + 1]
    stops = np.cumsum(end - begin)
    at = np.repeat(end - stops, end - begin) + np.arange(stops[-1], dtype=np.int64)
    depths = np.repeat(skip - stops + (end - begin), end - begin) + np.arange(stops[-1], dtype=np.int64)
    last = np.empty(stops[-1], dtype=np.int64)
    # From the back: what a run shares with the next one ends where the next one's ends; the rest ends with the run.
    until = np.empty(int(depths.max()) + 1, dtype=np.int64)
    for run in range(len(skip) - 1, -1, -1):
        shared_on = skip[run + 1] if run + 1 < len(skip) else 0
        until[shared_on:] = stops[run] - 1
        start = stops[run - 1] if run else 0
        last[start : stops[run]] = until[skip[run] : skip[run] + stops[run] - start]
    return plan.token_ids[at], depths, last, stops - (end - begin) - skip
