"""Exact search by cosine: which rows may be found, for which queries, at what cost. The pass itself is `sweep.py`."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from operator import add

import numpy as np
import torch
from torch import Tensor

from patchlens.axes import Bool, Float, Int
from patchlens.bank.bank import Bank
from patchlens.errors import BankMismatch, NonFiniteStates, OptionError
from patchlens.search.matches import Cost, Matches
from patchlens.search.rows import JoinedRows, RowSource
from patchlens.search.score import directions
from patchlens.search.space import make_space
from patchlens.search.sweep import Sweep, most_queries

__all__ = ["ExactIndex"]

_UNIQUE = ("word", "sentence")


class ExactIndex:
    """Finds the most similar rows over all layers wanted, in one global ranking.

    Example:
        >>> from patchlens.search import MemoryRows
        >>> rows = MemoryRows((4,), [torch.tensor([[1.0, 0.0], [0.0, 1.0]])])
        >>> ExactIndex(rows).search(torch.tensor([[3.0, 1.0]]), k=2).rows
        tensor([[0, 1]])
    """

    def __init__(
        self,
        rows: RowSource | Sequence[RowSource],
        layers: Iterable[int] | None = None,
        *,
        space: str = "raw",
        device: str | torch.device = "cpu",
        block_rows: int | None = None,
    ) -> None:
        """Take the rows; of a raw space nothing is read yet.

        Args:
            rows: A bank, rows in memory, or several of them, whose rows are then counted through.
            layers: Which of its layers to search; None for all.
            space: Where cosines are taken: "raw", as stored; "centred", less the mean of the bank's rows at their
                layer; "standardised", then over the standard deviation of each dimension too. For queries alike.
            device: Where similarities are computed. Rows that fit are kept on a GPU; others pass through it.
            block_rows: Rows of one block; None chooses by memory. It changes time and memory, never results.

        Raises:
            OptionError: No layers, one that `rows` lacks, an unknown space, a device that torch cannot use here, or
                blocks of less than one row.
        """
        self.source: RowSource = JoinedRows(rows) if isinstance(rows, Sequence) else rows
        known = self.source.layers
        self.layers = tuple(sorted(set(known if layers is None else layers)))
        if not self.layers or not set(self.layers) <= set(known):
            raise OptionError(
                f"Searching layers {', '.join(map(str, self.layers)) or 'none at all'}: there are rows of "
                f"{', '.join(map(str, known))}. Choose among those."
            )
        if block_rows is not None and block_rows < 1:
            raise OptionError(f"Searching in blocks of {block_rows} rows. Expected at least 1.")
        self.space = space
        self._sweep = Sweep(self.source, make_space(space, self.source.statistics), _device(device), block_rows)
        self._groups: dict[str, Int[Tensor, " row"]] = {}

    def __len__(self) -> int:
        """Rows over all layers searched: the largest k."""
        return len(self.source) * len(self.layers)

    def search(
        self,
        queries: Float[Tensor, "query d_model"],
        k: int,
        *,
        unique: str | None = None,
        where: Bool[Tensor, " row"] | None = None,
    ) -> Matches:
        """Find the k rows most similar to each query.

        Similarity is the cosine, rounded to steps of 2^-24; queries and rows are normalised here, so any scale is
        fine, and a row of zeros has similarity 0 to everything. Similarities that are equal after rounding are ties,
        which go to the lower layer, then the lower row.

        Args:
            queries: Hidden states, in any floating type, on any device.
            k: Matches per query.
            unique: "word": only the best match of each word, whatever its case; "sentence": of each sentence. The
                search goes on until k different ones are found.
            where: True for rows that may be found, as from `Bank.where`; None for all.

        Returns:
            Rows, layers and similarities on the CPU, most similar first.

        Raises:
            BankMismatch: Queries and rows differ in width.
            BankCorrupt: The bank's files are no longer those that were opened.
            NonFiniteStates: A query, or a row, holds NaN or infinity; names which.
            OptionError: k is out of range, nothing is selected, or a query is zero.
            OutOfMemory: There is not enough for a single row.

        Cost:
            One pass over the rows for up to 4,096 queries: query × row × d_model products. Memory is bounded by the
            size of a block (some 100 MB), 8 bytes a row and layer, and the result. `Matches.cost` says what it was.
        """
        return self._search(queries, k, self.layers, unique, where)

    def search_each_layer(
        self,
        queries: Float[Tensor, "query d_model"],
        k: int,
        *,
        unique: str | None = None,
        where: Bool[Tensor, " row"] | None = None,
    ) -> dict[int, Matches]:
        """Find the k rows most similar to each query at each layer by itself; see `search`."""
        return {layer: self._search(queries, k, (layer,), unique, where) for layer in self.layers}

    def sample(self, queries: Float[Tensor, "query d_model"], k: int, *, seed: int = 0) -> Matches:
        """Different rows for each query, drawn at random and without a look at them: what chance would find.

        Returns:
            The rows in the order drawn, each at a layer drawn at random, with their true similarities.
        """
        if not 1 <= k <= len(self.source):
            raise OptionError(
                f"Drawing {k} different rows at random: there are {len(self.source):,}. Choose k from 1 to that."
            )
        started = time.perf_counter()
        units = self.checked(queries)
        generator = torch.Generator().manual_seed(seed)
        rows = torch.empty(len(queries), k, dtype=torch.long)
        for drawn in rows:
            drawn.copy_(torch.randperm(len(self.source), generator=generator)[:k])
        layers = torch.tensor(self.layers)[torch.randint(len(self.layers), rows.shape, generator=generator)]
        query = torch.arange(len(queries)).repeat_interleave(k)
        found = self.similarities(units, query, layers.flatten(), rows.flatten()).view(rows.shape)
        cost = Cost(time.perf_counter() - started, 0, rows.numel(), 0, ("float64",), 0)
        return Matches(rows, layers, found, cost, self.source)

    def _search(
        self,
        queries: Float[Tensor, "query d_model"],
        k: int,
        layers: tuple[int, ...],
        unique: str | None,
        where: Bool[Tensor, " row"] | None,
    ) -> Matches:
        started = time.perf_counter()
        groups = None if unique is None else self._grouped(unique)
        self._check_k(k, layers, unique, groups, where)
        units = self.checked(queries)
        self.source.check_unchanged()
        found = [self._sweep.run(part, k, layers, groups, where) for part in torch.split(units, most_queries(k))]
        self.source.check_unchanged()  # not while we read it either
        return Matches(
            rows=torch.cat([best.rows for best, _ in found]),
            layers=torch.cat([best.layers for best, _ in found]),
            similarities=torch.cat([best.similarities for best, _ in found]),
            cost=replace(reduce(add, (cost for _, cost in found)), seconds=time.perf_counter() - started),
            source=self.source,
        )

    def _grouped(self, unique: str) -> Int[Tensor, " row"]:
        """A number for each row; equal ones have the same word or sentence."""
        if unique not in _UNIQUE:
            raise OptionError(f"Searching for each {unique!r} once: expected one of {', '.join(_UNIQUE)}.")
        if unique not in self._groups:
            codes = self.source.labels(unique).dictionary_encode().indices
            self._groups[unique] = torch.from_numpy(np.array(codes, dtype=np.int64))
        return self._groups[unique]

    def _check_k(
        self,
        k: int,
        layers: tuple[int, ...],
        unique: str | None,
        groups: Int[Tensor, " row"] | None,
        where: Bool[Tensor, " row"] | None,
    ) -> None:
        if where is not None and (len(where) != len(self.source) or not where.any()):
            raise OptionError(
                f"Searching where {int(where.sum()):,} of {len(where):,} rows are wanted: expected at least one of "
                f"{len(self.source):,}. Choose other words, sentences or sources."
            )
        rows = len(self.source) if where is None else int(where.sum())
        there, what = rows * len(layers), "rows"
        if groups is not None:
            there, what = len(np.unique(groups if where is None else groups[where])), f"rows of different {unique}s"
        if not 1 <= k <= there:
            wanted = "" if where is None else " wanted"
            each = "" if unique else f" ({rows:,} at each of {len(layers)} layers)"
            raise OptionError(
                f"Searching for the {k} most similar {what}: there are {there:,}{wanted}{each}. "
                f"Choose k from 1 to {there:,}."
            )

    def similarities(
        self,
        units: Float[Tensor, "query d_model"],
        query: Int[Tensor, " pair"],
        layer: Int[Tensor, " pair"],
        row: Int[Tensor, " pair"],
    ) -> Float[Tensor, " pair"]:
        """Similarities of pairs as `search` reports them.

        Args:
            units: Query directions, from `checked`.
            query: For each pair its query.
            layer: For each pair the layer of its row.
            row: For each pair its row.
        """
        return self._sweep.similarities(units, query, layer, row)

    def checked(self, queries: Float[Tensor, "query d_model"]) -> Float[Tensor, "query d_model"]:
        """The queries' directions in float64.

        Raises:
            BankMismatch, NonFiniteStates, OptionError: As `search`.
        """
        if queries.shape[1] != self.source.d_model:
            raise BankMismatch(
                f"Searching for {queries.shape[1]}-dimensional vectors among {self.source.d_model}-dimensional rows"
                f"{_whose(self.source)}. Both must come from models of one width: open the bank of this model."
            )
        finite = torch.isfinite(queries).all(dim=1)
        if not finite.all():
            raise NonFiniteStates(
                f"Searching: {_named(~finite)} holds NaN or infinity. Expected finite hidden states; "
                "load the model in float32 or bfloat16, or leave these out."
            )
        zero = (queries == 0).all(dim=1)
        if zero.any():
            raise OptionError(f"Searching: {_named(zero)} is zero, so it has no direction. Leave it out.")
        return directions(queries.cpu())


def _device(asked: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=asked).device
    except (RuntimeError, AssertionError) as error:  # torch raises either
        raise OptionError(
            f"Searching on the device '{asked}': torch cannot use it here ({str(error).splitlines()[0]}). "
            "'patchlens doctor' lists what there is; 'cpu' always works."
        ) from error


def _whose(source: RowSource) -> str:
    return f" of {source.provenance.model}" if isinstance(source, Bank) else ""


def _named(flags: Tensor) -> str:
    which = flags.nonzero().flatten().tolist()
    if len(which) == 1:
        return f"query {which[0]}"
    return f"each of {len(which)} queries ({', '.join(map(str, which[:5]))}{', …' if len(which) > 5 else ''})"
