"""The similarity that every search reports: a cosine in float64, summed in a fixed order, in steps of 2^-24.

Its value does not depend on the block that a row was found in, on threads or on the device. The coarse arithmetic
that finds candidates is in `coarse.py`; this is what it is held against.
"""

import torch
from torch import Tensor

from patchlens.axes import Float, Int, Num

__all__ = ["STEP", "directions", "rounded", "similarities", "tree_sum"]

STEP = 2.0**-24
"""Similarities are rounded to multiples of this: float32's own step just below 1. Steps of one size, so that a cosine
of 0 and one of 1e-17, which differ by rounding alone, are a tie."""

_PART_BYTES = 2 << 20  # of float64 products at a time: they stay in the cache


def directions(vectors: Num[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """Directions in float64, whatever the type and scale; zero rows stay zero."""
    vectors = vectors.double()
    largest = vectors.abs().amax(dim=1, keepdim=True) if vectors.shape[1] else vectors
    scaled = vectors / largest.where(largest > 0, 1.0)
    lengths = tree_sum(scaled * scaled).sqrt()[:, None]
    return scaled / lengths.where(lengths > 0, 1.0)


def similarities(
    queries: Float[Tensor, "query d_model"],
    rows: Float[Tensor, "row d_model"],
    query: Int[Tensor, " pair"],
    row: Int[Tensor, " pair"],
) -> Float[Tensor, " pair"]:
    """Similarities of pairs of directions, each given by its two numbers.

    Args:
        queries: float64, of length 1.
        rows: float64, of length 1 or 0.
        query: For each pair its query.
        row: For each pair its row.

    Returns:
        float32 in [-1, 1], a multiple of `STEP`.
    """
    size = max(1, _PART_BYTES // (8 * max(1, queries.shape[1])))
    parts = [
        tree_sum(queries[some_queries] * rows[some_rows])
        for some_queries, some_rows in zip(torch.split(query, size), torch.split(row, size), strict=True)
    ]
    return rounded(torch.cat(parts)) if parts else torch.empty(0)


def rounded(exact: Float[Tensor, " pair"]) -> Float[Tensor, " pair"]:
    """float64 similarities as they are reported: the nearest multiple of `STEP` in [-1, 1]; there is no -0."""
    return (exact / STEP).round_().clamp_(-1 / STEP, 1 / STEP).mul_(STEP).add_(0.0).float()


def tree_sum(terms: Float[Tensor, "pair term"]) -> Float[Tensor, " pair"]:
    """Add the columns two by two, so that equal rows get equal sums whatever else is in the block."""
    if not terms.shape[1]:
        return terms.new_zeros(len(terms))
    while (width := terms.shape[1]) > 1:
        half = width // 2
        folded = terms[:, :half] + terms[:, half : 2 * half]
        terms = torch.cat([folded, terms[:, 2 * half :]], dim=1) if width % 2 else folded
    return terms[:, 0]
