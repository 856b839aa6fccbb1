"""The coarse pass: similarities in the arithmetic that this machine is fast at, with a bound on their error.

For a query direction u and a row direction r, both of length 1 in exact arithmetic, a product of rounded û and r̂ is

    |û·r̂ - u·r| ≤ ‖u - û‖ + ‖û‖·‖r - r̂‖ + the error of the sum

by Cauchy and Schwarz. ‖u - û‖ is measured for each query, ‖r - r̂‖ bounded for each block by what the stored type and
the arithmetic can do to a row, and a sum of d products in precision s errs by at most d·s·‖û‖·‖r̂‖ in any order
(Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). Rows in bfloat16 and 8-bit types are exact in
bfloat16, so only the query is rounded there; 8-bit integers are exact in products of such.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from patchlens.axes import Float, Num
from patchlens.bank.encoding import select
from patchlens.search.score import directions

__all__ = [
    "ARITHMETICS",
    "INT8",
    "Arithmetic",
    "Queries",
    "Rows",
    "ladder",
    "lengths_of",
    "make_buffers",
    "prepare_queries",
    "prepare_rows",
    "product",
]


@dataclass(frozen=True)
class Arithmetic:
    """A precision for matrix products, and what it can do to them."""

    name: str
    """The type's name, as torch spells it."""
    dtype: torch.dtype
    """Of rows, queries and products; on CUDA bfloat16 gives float32 products."""
    rounding: float
    """Half the distance of neighbouring numbers, over the number."""
    summing: float
    """The same of the type in which products are added up."""


INT8 = Arithmetic("int8", torch.int8, 2.0**-8, 0.0)
"""Coarser than any of `ARITHMETICS`; for rows that are stored in it, which it does not round."""

ARITHMETICS = (
    Arithmetic("bfloat16", torch.bfloat16, 2.0**-8, 2.0**-24),
    Arithmetic("float32", torch.float32, 2.0**-24, 2.0**-24),
    Arithmetic("float64", torch.float64, 2.0**-53, 2.0**-53),
)
"""From coarse to fine. The last tells any two similarities apart that are reported as different."""


@dataclass(frozen=True, eq=False)
class Queries:
    """Query directions in an arithmetic."""

    values: Num[Tensor, "query d_model"]
    """Rounded to its type."""
    error: Float[Tensor, " query"]
    """How far rounding moved each, as a distance, in float64."""
    scale: Float[Tensor, " query"] | None = None
    """What integers are multiplied with to give the directions."""


@dataclass(frozen=True, eq=False)
class Rows:
    """A block's rows in an arithmetic."""

    values: Num[Tensor, "block d_model"]
    """Rounded to its type, on the device."""
    inverse: Float[Tensor, " block"] | None
    """What brings them to length 1, on the device; None where they have it."""
    error: float
    """How far each may be from its direction, as a distance, once it has length 1."""
    length_error: float = 0.0
    """How far the lengths may be from the exact ones, over these."""


def prepare_queries(units: Float[Tensor, "query d_model"], arithmetic: Arithmetic, device: torch.device) -> Queries:
    """Round float64 directions to an arithmetic's type; the error is what was measured."""
    if arithmetic.dtype == torch.int8:
        scale = (units.abs().amax(dim=1) / _INT8).clamp(min=2.0**-100).float()
        values = (units / scale[:, None]).round_()
        error = torch.linalg.vector_norm(units - values * scale[:, None], dim=1) + 2.0**-50
        return Queries(values.to(torch.int8).to(device), error, scale.to(device))
    values = units.to(arithmetic.dtype)
    error = torch.linalg.vector_norm(units - values.double(), dim=1) + arithmetic.summing
    return Queries(values.to(device), error.cpu())


def prepare_rows(
    block: Num[Tensor, "block d_model"],
    lengths: Float[Tensor, " block"],
    arithmetic: Arithmetic,
    buffer: Num[Tensor, "size d_model"],
    move: Callable[[Tensor], Tensor] | None = None,
    move_roughly: Callable[[Tensor, float], tuple[Tensor, Tensor]] | None = None,
) -> Rows:
    """Bring a block to an arithmetic's type.

    Args:
        block: Rows as they are stored, on any device.
        lengths: Theirs, from `lengths_of`.
        arithmetic: The type to bring them to.
        buffer: Memory to put them in, on the device of the products, at least as many rows.
        move: Into another space, in float64; None for the stored one.
        move_roughly: The same in float32: gives directions, and how far each may be from the exact one.
    """
    into = buffer[: len(block)]
    if _wild(lengths) or (move is not None and arithmetic.dtype == torch.float64):
        exact = directions(block.cpu())
        return _rounded(exact if move is None else move(exact), into, arithmetic, 2.0**-44)
    slack = length_error(block)
    inverse = lengths.where(lengths > 0, torch.inf).reciprocal()
    if move is not None and move_roughly is not None:
        units = block.float() * inverse.float().to(block.device)[:, None]
        moved, far = move_roughly(units, slack + 2.0**-22)
        poor = (far > _POOR).nonzero().flatten()
        if len(poor):  # rows so near the mean that float32 does not know where they point
            moved[poor] = move(directions(select(block, poor).cpu())).to(moved)
            far[poor] = 2.0**-22
        return _rounded(moved, into, arithmetic, float(far.max()) if len(far) else 0.0)
    if arithmetic.dtype == torch.float64:
        values = block.double()
        inverse = torch.linalg.vector_norm(values, dim=1).reciprocal()
        return Rows(into.copy_(values), inverse.where(lengths.to(inverse) > 0, 0.0).to(into.device), 0.0, 2.0**-44)
    if arithmetic.dtype == torch.int8 and block.dtype == torch.int8:
        here = block if block.device == buffer.device else into.copy_(block)
        return Rows(here, inverse.to(into.device, torch.float32), 0.0, slack + 2.0**-23)
    if arithmetic.dtype == torch.float32:
        same = block.dtype == torch.float32 and block.device == buffer.device
        here = block if same else into.copy_(block)
        rounding = 1.01 * arithmetic.rounding if block.dtype == torch.float64 else 0.0
        return Rows(here, inverse.to(into.device, torch.float32), rounding, slack + 2.0**-23)
    off = float((lengths - 1).abs().max()) if len(lengths) else 0.0
    if arithmetic.dtype == torch.bfloat16 and block.dtype.itemsize == 2 and off <= _NEARLY:
        if block.dtype == torch.bfloat16:
            return Rows(block if block.device == buffer.device else into.copy_(block), None, 1.01 * (off + slack))
        # By way of float32: torch turns float16 into bfloat16 one number at a time.
        return Rows(into.copy_(block.float()), None, 1.01 * (arithmetic.rounding + off + slack))
    units = block.float() * inverse.float().to(block.device)[:, None]
    return _rounded(units, into, arithmetic, slack + 2.0**-22)


def _rounded(
    units: Float[Tensor, "block d_model"], into: Num[Tensor, "block d_model"], arithmetic: Arithmetic, error: float
) -> Rows:
    """Directions, known up to an error, in an arithmetic's type."""
    if arithmetic.dtype != torch.int8:
        return Rows(into.copy_(units), None, 1.01 * (arithmetic.rounding + error) + 2.0**-50)
    scale = (units.abs().amax(dim=1) / _INT8).clamp(min=2.0**-100)
    values = (units / scale[:, None]).round_()
    # The entries' errors are at most half a step; 1.001 for what float32 adds in dividing.
    off = 0.5 * float(scale.max()) * units.shape[1] ** 0.5 if len(units) else 0.0
    return Rows(into.copy_(values), scale.to(into.device, torch.float32), 1.001 * off + error)


def product(
    rows: Rows, queries: Queries, arithmetic: Arithmetic, out: Num[Tensor, "size query"]
) -> tuple[Float[Tensor, "block query"], Float[Tensor, " query"], float]:
    """Similarities of a block, and how far they may be from the exact ones.

    Returns:
        The products c, and error and fraction such that the exact similarity is within error + fraction·|c| of c.
        The error is in float64, one for each query.
    """
    block, d_model = rows.values.shape
    into = out[:block]
    if arithmetic.dtype == torch.int8:
        assert queries.scale is not None
        assert rows.inverse is not None
        if d_model == 1:  # there torch's product of integers is wrong
            found = rows.values.float() @ queries.values.float().T
        else:
            found = torch._int_mm(rows.values, queries.values.T).float()
        found.mul_(rows.inverse[:, None]).mul_(queries.scale)
    elif out.dtype == arithmetic.dtype:
        found = torch.mm(rows.values, queries.values.T, out=into)
    else:
        found = torch.mm(rows.values, queries.values.T, out_dtype=out.dtype, out=into)
    if rows.inverse is not None and arithmetic.dtype != torch.int8:
        found.mul_(rows.inverse[:, None])
    # Twice the bound on the sum: a processor may add pairs of products first, and drop subnormal ones.
    summing = 0.0 if arithmetic.dtype == torch.int8 else 2 * (d_model + 4) * arithmetic.summing
    sizes = (1 + queries.error) * (1 + rows.error)
    error = queries.error + (1 + queries.error) * rows.error + summing * sizes
    written = _WRITTEN[found.dtype] * (4 if arithmetic.dtype == torch.int8 else 2 if rows.inverse is not None else 1)
    return found, 1.001 * error, 1.01 * (written + rows.length_error)


def length_error(block: Num[Tensor, "block d_model"]) -> float:
    """How far a length given by `lengths_of` may be from the exact one, over that one."""
    return 2.0**-44 if block.dtype.itemsize >= 4 else (block.shape[1] / 2 + 4) * 2.0**-24


def lengths_of(block: Num[Tensor, "block d_model"]) -> Float[Tensor, " block"]:
    """Lengths of rows in float64; infinite or NaN where a row is not finite.

    The types of 16 and 8 bits are added up in float32, which is many times faster and holds all their squares.
    """
    if block.dtype == torch.float64:
        largest = block.abs().amax(dim=1)
        scale = largest.where((largest > 0) & torch.isfinite(largest), 1.0)
        found: Tensor = torch.linalg.vector_norm(block / scale[:, None], dim=1) * scale
    elif block.dtype == torch.float32:
        found = torch.linalg.vector_norm(block, dim=1, dtype=torch.float64)
    else:
        found = torch.linalg.vector_norm(block.float(), dim=1).double()
    return found


_FASTER = 1.3  # times; below that, bringing rows to another type costs more than it saves
_PROBED = (1024, 256, 2048)  # rows, queries, d_model
_NEARLY = 2.0**-7  # off length 1: what a row of a bank may be after rounding to 16 bits
_INT8 = 127.0  # the largest number that is used
_WRITTEN = {torch.bfloat16: 2.0**-8, torch.float32: 2.0**-24, torch.float64: 2.0**-53}  # rounding of a product
_POOR = 2.0**-6  # a direction that may be off by more is computed again in float64
_TAME = (1e-12, 1e12)  # lengths whose squares and products float32 can hold without loss


def _wild(lengths: Float[Tensor, " block"]) -> bool:
    return bool((((lengths < _TAME[0]) & (lengths > 0)) | (lengths > _TAME[1])).any())


@cache
def ladder(device: str, stored: torch.dtype) -> tuple[Arithmetic, ...]:
    """The arithmetics to try on a device for rows of a stored type, coarse to fine.

    One that is coarser than float32 only where it is clearly faster than the next finer one, and where its products
    keep the bound above: a fallback that adds in bfloat16 would not. Finding out takes less than 0.1 s, once a process.
    """
    found = [*ARITHMETICS[1:]]
    # On GPUs torch's product of integers takes matrices of some shapes only.
    integers = stored == torch.int8 and device == "cpu" and hasattr(torch, "_int_mm")
    for rougher in (ARITHMETICS[0], INT8) if integers else ARITHMETICS[:1]:
        faster = _seconds(rougher, device) < _seconds(found[0], device) / _FASTER
        if faster and _keeps_its_bound(rougher, device):
            found.insert(0, rougher)
    return tuple(found)


def _keeps_its_bound(arithmetic: Arithmetic, device: str) -> bool:
    generator = torch.Generator().manual_seed(0)
    units, block = (directions(torch.rand(size, 1024, generator=generator) + 0.1) for size in (64, 128))
    queries = prepare_queries(units, arithmetic, torch.device(device))
    buffer, out = make_buffers(arithmetic, torch.device(device), 128, 64, 1024)
    values = (block * 1000).to(torch.int8) if arithmetic.dtype == torch.int8 else block.float()
    rows = prepare_rows(values, lengths_of(values), arithmetic, buffer)
    found, error, fraction = product(rows, queries, arithmetic, out)
    found = found.cpu().double()
    return bool(((found - directions(values) @ units.T).abs() <= error + fraction * found.abs()).all())


def _seconds(arithmetic: Arithmetic, device: str) -> float:
    """Of the fastest of some products, of a usual block with usual queries."""
    buffer, out = make_buffers(arithmetic, torch.device(device), _PROBED[0], _PROBED[1], _PROBED[2])
    buffer.zero_()
    rows = Rows(buffer, torch.ones(_PROBED[0], device=device), 0.0)
    queries = prepare_queries(torch.ones(_PROBED[1:], dtype=torch.float64), arithmetic, torch.device(device))
    wait: Callable[[], None] = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        product(rows, queries, arithmetic, out)
        wait()
        best = min(best, time.perf_counter() - started)
    return best


def make_buffers(
    arithmetic: Arithmetic, device: torch.device, rows: int, queries: int, d_model: int
) -> tuple[Tensor, Tensor]:
    """A buffer for a block, and one for its products."""
    rough = arithmetic.dtype == torch.int8 or (device.type == "cuda" and arithmetic.dtype == torch.bfloat16)
    written = torch.float32 if rough else arithmetic.dtype
    return (
        torch.empty(rows, d_model, dtype=arithmetic.dtype, device=device),
        torch.empty(rows, queries, dtype=written, device=device),
    )
