"""Exact search by cosine in one pass over the rows, with a proof that the coarse arithmetic lost nothing.

A block's similarities are first computed in float32 as one matrix product. Any order of summation errs by less than
a known margin there, so every row that could be among the best k is kept; those few are scored again in float64,
with a fixed order of summation. Results therefore do not depend on the size of blocks, on threads or on the processor.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from patchlens.axes import Float, Int, Num
from patchlens.errors import BankMismatch, NonFiniteStates, OptionError
from patchlens.search.matches import Matches
from patchlens.search.rows import RowSource

__all__ = ["ExactIndex"]

_BLOCK_BYTES = 64 << 20  # of one block's similarities, and of one block's rows, in float32
_EXACT_BYTES = 16 << 20  # of rows that are scored again at a time, in float64
_PAIRS = 1 << 20  # of a query and a promising row, merged at a time; a bank of equal rows has many
_QUERIES = 4096  # in one pass: with more, blocks would get too thin for a fast product

# Similarities are rounded to this fraction, float32's own step just below 1. Steps of one size, so that a cosine of 0
# and one of 1e-17, which differ by rounding alone, are a tie.
_STEPS = 2.0**24

# Lengths whose squares and products float32 can hold without loss; rows of other lengths are scaled first.
_TAME = (1e-12, 1e12)


class ExactIndex:
    """Finds the most similar rows over all layers wanted, in one global ranking.

    Example:
        >>> from patchlens.search import MemoryRows
        >>> rows = MemoryRows((4,), [torch.tensor([[1.0, 0.0], [0.0, 1.0]])])
        >>> ExactIndex(rows).search(torch.tensor([[3.0, 1.0]]), k=2).rows
        tensor([[0, 1]])
    """

    def __init__(self, rows: RowSource, layers: Iterable[int] | None = None, *, block_rows: int | None = None) -> None:
        """Take the rows; nothing is read yet.

        Args:
            rows: A bank, or rows in memory.
            layers: Which of its layers to search; None for all.
            block_rows: Rows of one block; None chooses by memory. It changes time and memory, never results.

        Raises:
            OptionError: No layers, one that `rows` lacks, or blocks of less than one row.
        """
        self._source = rows
        self.layers = tuple(sorted(set(rows.layers if layers is None else layers)))
        if not self.layers or not set(self.layers) <= set(rows.layers):
            raise OptionError(
                f"Searching layers {', '.join(map(str, self.layers)) or 'none at all'}: there are rows of "
                f"{', '.join(map(str, rows.layers))}. Choose among those."
            )
        if block_rows is not None and block_rows < 1:
            raise OptionError(f"Searching in blocks of {block_rows} rows. Expected at least 1.")
        self._block_rows = block_rows

    def __len__(self) -> int:
        """Rows over all layers searched: the largest k."""
        return len(self._source) * len(self.layers)

    def search(self, queries: Float[Tensor, "query d_model"], k: int) -> Matches:
        """Find the k rows most similar to each query.

        Similarity is the cosine, rounded to steps of 2^-24; queries and rows are normalised here, so any scale is
        fine, and a row of zeros has similarity 0 to everything. Similarities that are equal after rounding are ties,
        which go to the lower layer, then the lower row.

        Args:
            queries: Hidden states, in any floating type, on any device.
            k: Matches per query; at most `len(self)`.

        Returns:
            Rows, layers and similarities on the CPU, most similar first.

        Raises:
            BankMismatch: Queries and rows differ in width.
            NonFiniteStates: A query, or a row, holds NaN or infinity; names which.
            OptionError: k is out of range, or a query is zero.

        Cost:
            One pass over the rows for up to 4,096 queries: query × row × d_model products in float32. Memory is
            bounded by the size of a block (some 200 MB) and of the result.
        """
        if not 1 <= k <= len(self):
            raise OptionError(
                f"Searching for the {k} most similar rows: there are {len(self):,} "
                f"({len(self._source):,} at each of {len(self.layers)} layers). Choose k from 1 to {len(self):,}."
            )
        self._check(queries)
        parts = [self._pass(_unit(part.cpu()), k) for part in torch.split(queries, _QUERIES)]
        return Matches(
            rows=torch.cat([part.rows for part in parts]),
            layers=torch.cat([part.layers for part in parts]),
            similarities=torch.cat([part.similarities for part in parts]),
        )

    def _check(self, queries: Float[Tensor, "query d_model"]) -> None:
        if queries.shape[1] != self._source.d_model:
            raise BankMismatch(
                f"Searching for {queries.shape[1]}-dimensional vectors among {self._source.d_model}-dimensional rows. "
                "Both must come from models of one width: open the bank of this model."
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

    def _pass(self, queries: Float[Tensor, "query d_model"], k: int) -> Matches:
        # The bound is for IEEE float32; a setting that allows TF32 or bfloat16 products would break it.
        coarse = torch.float32 if torch.get_float32_matmul_precision() == "highest" else torch.float64
        rounded, margin = queries.to(coarse), _margin(self._source.d_model)
        best = _Best.none(len(queries), k)
        size = self._block_rows or max(1, _BLOCK_BYTES // (4 * max(len(queries), self._source.d_model)))
        for layer in self.layers:
            for start, stored in self._source.blocks(layer, size):
                rows, lengths = _measured(stored, layer, start)
                similarities = (rounded @ rows.to(coarse).T).div_(lengths.to(coarse))
                found = _promising(similarities, best.similarities[:, -1], k, margin)
                for query, at in zip(*(torch.split(part, _PAIRS) for part in found), strict=True):
                    exact = _exact(queries, rows, lengths, query, at)
                    best = best.with_more(query, torch.full_like(at, layer), at + start, exact)
        return Matches(best.rows, best.layers, best.similarities)


@dataclass(frozen=True, eq=False)
class _Best:
    """The best matches so far, in order; similarity -infinity where there is none yet."""

    rows: Int[Tensor, "query k"]
    layers: Int[Tensor, "query k"]
    similarities: Float[Tensor, "query k"]

    @classmethod
    def none(cls, queries: int, k: int) -> "_Best":
        empty = torch.full((queries, k), -1, dtype=torch.long)
        return cls(empty, empty, torch.full((queries, k), -torch.inf))

    def with_more(
        self,
        query: Int[Tensor, " found"],
        layer: Int[Tensor, " found"],
        row: Int[Tensor, " found"],
        similarity: Float[Tensor, " found"],
    ) -> "_Best":
        """Merge rows in. They come after all rows so far in (layer, row) order, and in that order themselves."""
        queries, k = self.rows.shape
        owner = torch.cat([torch.arange(queries).repeat_interleave(k), query])
        scores = torch.cat([self.similarities.flatten(), similarity])
        # Two stable sorts: ties stay in the order in which they came.
        order = scores.argsort(descending=True, stable=True)
        order = order[owner[order].argsort(stable=True)]
        first = torch.searchsorted(owner[order], torch.arange(queries))
        top = order[first[:, None] + torch.arange(k)]
        return _Best(
            rows=torch.cat([self.rows.flatten(), row])[top],
            layers=torch.cat([self.layers.flatten(), layer])[top],
            similarities=scores[top],
        )


def _margin(d_model: int) -> float:
    """How far a coarse similarity can be from the exact one, rounded as it is reported.

    A sum of d products of unit vectors errs by at most d·u·Σ|q·x| ≤ d·u in any order (Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1; u = 2^-24). Rounding the query, the row, its length, the quotient and the
    reported value adds less than 8 u; the factor 1.01 covers the terms in u², up to widths of 100,000.
    """
    return 1.01 * (d_model + 8) * 2.0**-24


def _measured(
    stored: Num[Tensor, "block d_model"], layer: int, start: int
) -> tuple[Float[Tensor, "block d_model"], Float[Tensor, " block"]]:
    """A block's rows in float32 or float64, and their lengths in float64 (infinity for a row of zeros)."""
    rows = stored.cpu() if stored.dtype == torch.float64 else stored.cpu().float()
    lengths = _lengths(rows)
    finite = torch.isfinite(lengths)
    if not finite.all():
        raise NonFiniteStates(
            f"Searching: row {start + int((~finite).nonzero()[0]):,} at layer {layer} holds NaN or infinity. "
            "Check the bank with 'patchlens bank verify', or build it again."
        )
    if rows.dtype == torch.float64 or ((lengths < _TAME[0]) | (lengths > _TAME[1])).any():
        rows = _unit(rows)
        lengths = torch.ones_like(lengths).where(lengths > 0, 0.0)
    return rows, lengths.where(lengths > 0, torch.inf)


def _promising(
    similarities: Float[Tensor, "query block"], worst: Float[Tensor, " query"], k: int, margin: float
) -> tuple[Int[Tensor, " found"], Int[Tensor, " found"]]:
    """Which (query, row) pairs could be among the best k, by query and then row."""
    floor = worst - margin
    found = similarities >= floor[:, None]
    if similarities.shape[1] >= k and int(torch.count_nonzero(found)) > 8 * found.shape[0] * k:
        # Early on, or where rows get better and better: the block's own k-th best says more than the past.
        in_block = similarities.topk(k, dim=1).values[:, -1]
        found = similarities >= torch.maximum(floor, in_block - 2 * margin)[:, None]
    query, at = found.nonzero(as_tuple=True)
    return query, at


def _exact(
    queries: Float[Tensor, "query d_model"],
    rows: Float[Tensor, "block d_model"],
    lengths: Float[Tensor, " block"],
    query: Int[Tensor, " found"],
    at: Int[Tensor, " found"],
) -> Float[Tensor, " found"]:
    """Cosines of pairs in float64, summed in a fixed order, then rounded to the steps that are reported."""
    size = max(1, _EXACT_BYTES // (8 * queries.shape[1]))
    parts = [
        _tree_sum(queries[some_queries] * rows[some_rows].double()) / lengths[some_rows]
        for some_queries, some_rows in zip(torch.split(query, size), torch.split(at, size), strict=True)
    ]
    return torch.cat(parts).mul_(_STEPS).round_().clamp_(-_STEPS, _STEPS).div_(_STEPS).add_(0.0).float()


def _tree_sum(terms: Float[Tensor, "pair term"]) -> Float[Tensor, " pair"]:
    """Add the columns two by two, so that equal rows get equal sums whatever else is in the block."""
    while (width := terms.shape[1]) > 1:
        half = width // 2
        folded = terms[:, :half] + terms[:, half : 2 * half]
        terms = torch.cat([folded, terms[:, 2 * half :]], dim=1) if width % 2 else folded
    return terms[:, 0]


def _lengths(rows: Float[Tensor, "row d_model"]) -> Float[Tensor, " row"]:
    """Lengths in float64, which holds the square of any float32; float64 itself is scaled first."""
    if rows.dtype == torch.float64:
        largest = rows.abs().amax(dim=1)
        scale = largest.where((largest > 0) & torch.isfinite(largest), 1.0)
        lengths: Tensor = torch.linalg.vector_norm(rows / scale[:, None], dim=1) * scale
    else:
        lengths = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return lengths


def _unit(vectors: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """Directions in float64; zero rows stay zero."""
    vectors = vectors.double()
    largest = vectors.abs().amax(dim=1, keepdim=True)
    scaled = vectors / largest.where(largest > 0, 1.0)
    lengths = _tree_sum(scaled * scaled).sqrt()[:, None]
    return scaled / lengths.where(lengths > 0, 1.0)


def _named(flags: Tensor) -> str:
    which = flags.nonzero().flatten().tolist()
    if len(which) == 1:
        return f"query {which[0]}"
    return f"each of {len(which)} queries ({', '.join(map(str, which[:5]))}{', …' if len(which) > 5 else ''})"
