"""One pass over the rows, shared by all queries, in fast arithmetic with a proof.

A block's similarities are computed coarsely, as one matrix product in the arithmetic that the machine is fast at
(`coarse.py`), with a bound on their error. A row is dropped when k others are certain to be more similar (`pool.py`).
What is left at the end is computed again in float64 with a fixed order of summation (`score.py`), and the best k of
that are the result. Where the bound leaves too many rows of a query (all of them nearer together than bfloat16 can
tell), that query goes through the rows once more in finer arithmetic. So the result never depends on the size of
blocks, on threads or on the device.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from patchlens.axes import Bool, Float, Int, Num
from patchlens.bank.encoding import select
from patchlens.errors import NonFiniteStates, OutOfMemory
from patchlens.search.coarse import (
    ARITHMETICS,
    Arithmetic,
    Queries,
    ladder,
    lengths_of,
    make_buffers,
    prepare_queries,
    prepare_rows,
    product,
)
from patchlens.search.matches import Cost
from patchlens.search.pool import Best, Pairs, Pool
from patchlens.search.rows import RowSource
from patchlens.search.score import STEP, directions, rounded, similarities
from patchlens.search.space import Space
from patchlens.search.transfer import Transfer

__all__ = ["Sweep", "most_queries"]

_BLOCK_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}  # of a block, and of its products; on a processor they stay cached
_FIRST = 256  # rows of the first block; they double from there: while little is known, many rows are candidates
_SPARSE = 64  # blocks are at most so many times larger where few of their rows are wanted
_QUERIES = 4096  # in one pass: with more, blocks would get too thin for a fast product
_PAIRS = 1 << 22  # candidates in memory, at most
_GATHERED = 16 << 20  # bytes of rows in float64 that are scored at a time
_MANY = 24  # queries; for fewer, bringing rows to another type costs more than it saves
_SMALL = 1 << 28  # so many products take less time than finding out what the machine is fast at


def most_queries(k: int) -> int:
    """How many queries one pass takes."""
    return max(1, min(_QUERIES, _PAIRS // _limit(k)))


def _limit(k: int) -> int:
    """Candidates of a query beyond which finer arithmetic is cheaper than scoring each of them."""
    return 8 * k + 128


@dataclass(frozen=True, eq=False)
class _Part:
    """Some rows of a layer."""

    rows: Int[Tensor, " block"]
    """Their numbers, ascending."""
    block: Num[Tensor, "block d_model"]
    """As stored, on the device."""
    lengths: Float[Tensor, " block"]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: slice) -> "_Part":
        return _Part(self.rows[which], self.block[which], self.lengths[which])


class Sweep:
    """Passes over one source of rows; remembers the rows' lengths from one to the next."""

    def __init__(self, source: RowSource, space: Space | None, device: torch.device, block_rows: int | None) -> None:
        """Take them; nothing is read.

        Args:
            source: The rows.
            space: Where cosines are taken; None for the stored space.
            device: Where products are computed.
            block_rows: Rows of a block; None chooses by memory.
        """
        self._source = source
        self._space = space
        self._device = device
        self._block_rows = block_rows
        self._lengths: dict[int, Float[Tensor, " row"]] = {}
        self._transfer = Transfer(device)

    def run(
        self,
        units: Float[Tensor, "query d_model"],
        k: int,
        layers: tuple[int, ...],
        groups: Int[Tensor, " row"] | None,
        where: Bool[Tensor, " row"] | None,
    ) -> tuple[Best, Cost]:
        """Find the best k rows of each query.

        Args:
            units: Query directions in float64, on the CPU.
            k: Matches of each.
            layers: Ascending.
            groups: A number for each row; of equal ones only the best match counts. None to count each.
            where: Which rows may be found; None for all.
        """
        started = time.perf_counter()
        best, left = Best.none(len(units), k), torch.arange(len(units))
        compared = rescored = refined = block_rows = halved = 0
        used: list[str] = []
        for arithmetic in self._arithmetics(len(units), len(layers) * self._chosen(where) * self._source.d_model):
            if not len(left):
                break
            if used and arithmetic.dtype == torch.bfloat16 and len(left) < _MANY:
                continue  # too few to be worth bringing the rows to it
            asked = units[left]
            pool = Pool(len(left), k, groups)
            stream = _Stream(self, arithmetic, asked, pool, k)
            stream.read(layers, where)
            rescored += stream.settle()
            done = torch.isfinite(pool.floor)
            best.put(left[done], pool.best, done)
            left = left[~done]
            used.append(arithmetic.name)
            refined += len(left)
            compared += stream.compared
            block_rows, halved = max(block_rows, stream.size), halved + stream.halved
        return best, Cost(
            seconds=time.perf_counter() - started,
            compared=compared,
            rescored=rescored,
            refined=refined,
            arithmetics=tuple(used),
            block_rows=block_rows,
            halved=halved,
        )

    def similarities(
        self,
        units: Float[Tensor, "query d_model"],
        query: Int[Tensor, " pair"],
        layer: Int[Tensor, " pair"],
        row: Int[Tensor, " pair"],
    ) -> Float[Tensor, " pair"]:
        """Similarities of pairs as they are reported; each distinct row is read once."""
        found = torch.empty(len(query))
        size = max(1, _GATHERED // (8 * self._source.d_model))
        for number in sorted(set(layer.tolist())):
            asked = self.moved(number, units)
            pairs = (layer == number).nonzero().flatten()
            pairs = pairs[row[pairs].argsort()]
            distinct, which = torch.unique_consecutive(row[pairs], return_inverse=True)
            for first in range(0, len(distinct), size):
                some = slice(*torch.searchsorted(which, torch.tensor([first, first + size])).tolist())
                taken = self.moved(
                    number, directions(self._source.gather(number, distinct[first : first + size]).cpu())
                )
                found[pairs[some]] = similarities(asked, taken, query[pairs[some]], which[some] - first)
        return found

    def moved(self, layer: int, units: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        """Directions in the space where cosines are taken, in float64."""
        return units if self._space is None else self._space.exact(layer, units)

    def parts(self, layer: int, size: int, where: Bool[Tensor, " row"] | None) -> Iterator[_Part]:
        """The wanted rows of a layer in order, mostly `size` at a time."""
        share = self._chosen(where) / len(self._source)
        blocks = self._source.blocks(layer, int(size / max(share, 1 / _SPARSE)))
        for start, block in self._transfer.ahead(layer, blocks):
            stop = start + len(block)
            part = _Part(torch.arange(start, stop), block, self._measured(layer, start, block))
            if where is not None and not where[start:stop].all():
                at = where[start:stop].nonzero().flatten()
                part = _Part(part.rows[at], select(block, at), part.lengths[at])
            yield part

    def buffers(self, arithmetic: Arithmetic, size: int, queries: int) -> tuple[Tensor, Tensor]:
        """Memory for a block and its products."""
        return make_buffers(arithmetic, self._device, size, queries, self._source.d_model)

    def size(self, arithmetic: Arithmetic, queries: int) -> int:
        """Rows of a block."""
        bytes_each = arithmetic.dtype.itemsize * max(queries, self._source.d_model)
        return self._block_rows or max(1, _BLOCK_BYTES.get(self._device.type, 8 << 20) // bytes_each)

    def prepared(self, arithmetic: Arithmetic, layer: int, units: Float[Tensor, "query d_model"]) -> Queries:
        """Queries as they are compared with rows of a layer."""
        return prepare_queries(self.moved(layer, units), arithmetic, self._device)

    def products(
        self, arithmetic: Arithmetic, layer: int, part: _Part, queries: Queries, buffers: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, float]:
        """Coarse similarities of a part and of the queries; see `product`."""
        space = self._space
        rows = prepare_rows(
            part.block,
            part.lengths,
            arithmetic,
            buffers[0],
            None if space is None else lambda units: space.exact(layer, units),
            None if space is None else lambda units, error: space.rough(layer, units, error),
        )
        return product(rows, queries, arithmetic, buffers[1])

    def _arithmetics(self, queries: int, each: int) -> tuple[Arithmetic, ...]:
        """Those that are worth trying for so many queries of so many products each."""
        found: tuple[Arithmetic, ...] = ARITHMETICS[1:]
        if queries >= _MANY and queries * each > _SMALL:
            stored = self._source.gather(self._source.layers[0], torch.zeros(1, dtype=torch.long)).dtype
            # Integers have no mean taken off them without becoming other numbers.
            found = ladder(str(self._device), stored if self._space is None else torch.float32)
        # The bound is for IEEE float32; a setting that allows TF32 or bfloat16 products breaks it.
        plain = torch.get_float32_matmul_precision() == "highest"
        return tuple(one for one in found if one.dtype != torch.float32 or plain)

    def _chosen(self, where: Bool[Tensor, " row"] | None) -> int:
        return len(self._source) if where is None else int(where.sum())

    def _measured(self, layer: int, start: int, block: Num[Tensor, "block d_model"]) -> Float[Tensor, " block"]:
        """The lengths of a block's rows, computed when it is first seen."""
        known = self._lengths.setdefault(layer, torch.full((len(self._source),), torch.nan, dtype=torch.float64))
        lengths = known[start : start + len(block)]
        if lengths.isnan().any():
            lengths.copy_(lengths_of(block))
            finite = torch.isfinite(lengths)
            if not finite.all():
                row = start + int((~finite).nonzero()[0])
                lengths.fill_(torch.nan)
                raise NonFiniteStates(
                    f"Searching: row {row:,} at layer {layer} holds NaN or infinity. "
                    "Check the bank with 'patchlens bank verify', or build it again."
                )
        return lengths


class _Stream:
    """One arithmetic's way through the rows."""

    def __init__(
        self, sweep: Sweep, arithmetic: Arithmetic, units: Float[Tensor, "query d_model"], pool: Pool, k: int
    ) -> None:
        self._sweep = sweep
        self._arithmetic = arithmetic
        self._units = units
        self._pool = pool
        self._limit = _limit(k)
        self._first = max(_FIRST, 2 * k)
        self.size = sweep.size(arithmetic, len(units))
        self.compared = self.halved = self._settled = 0

    def read(self, layers: tuple[int, ...], where: Bool[Tensor, " row"] | None) -> None:
        """Compare all wanted rows, or those up to where every query was given up."""
        self._buffers = self._sweep.buffers(self._arithmetic, self.size, len(self._units))
        seen = 0
        for layer in layers:
            queries = self._sweep.prepared(self._arithmetic, layer, self._units)
            for part in self._sweep.parts(layer, self.size, where):
                at = 0
                while at < len(part):
                    some = part[at : at + min(self.size, max(self._first, seen))]
                    if not self._compared(layer, some, queries):
                        continue
                    at, seen = at + len(some), seen + len(some)
                    if torch.isposinf(self._pool.floor).all():
                        return

    def settle(self) -> int:
        """Score what is left; gives how many pairs were scored, all together."""
        self._pool.prune()
        return self._settled + self._pool.settle(self._similarity)

    def _compared(self, layer: int, part: _Part, queries: Queries) -> bool:
        """Compare some rows; False if memory ran out, and blocks are smaller now."""
        try:
            pairs = self._promising(layer, part, queries)
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            self._halve(len(part), error)
            return False
        self.compared += len(part) * len(self._units)
        self._pool.add(pairs)
        if self._pool.grown:
            self._thin_out()
        return True

    def _promising(self, layer: int, part: _Part, queries: Queries) -> Pairs:
        """The pairs that may be among the best k."""
        found, error, fraction = self._sweep.products(self._arithmetic, layer, part, queries, self._buffers)
        floor = self._pool.floor
        cut = _cut(floor, error, fraction, found.dtype).to(found.device)
        at, query = (found >= cut).nonzero(as_tuple=True)
        scores = found[at, query].cpu().double()
        at, query = at.cpu(), query.cpu()
        off = error[query] + fraction * scores.abs()
        pairs = Pairs(
            query=query,
            layer=torch.full_like(query, layer),
            row=part.rows[at],
            lower=rounded(scores - off),
            upper=rounded(scores + off),
        )
        return pairs[pairs.upper > floor[query]]

    def _thin_out(self) -> None:
        crowded = self._pool.prune() > self._limit
        if not crowded.any():
            return
        if self._arithmetic is ARITHMETICS[-1]:
            self._settled += self._pool.settle(self._similarity)
        else:
            self._pool.give_up(crowded)

    def _similarity(self, pairs: Pairs) -> Float[Tensor, " pair"]:
        return self._sweep.similarities(self._units, pairs.query, pairs.layer, pairs.row)

    def _halve(self, rows: int, error: Exception) -> None:
        if rows == 1:
            raise OutOfMemory(
                f"Searching for {len(self._units):,} queries: there is not enough memory for one row and its "
                f"similarities ({error}). Free memory, or search for fewer queries at a time."
            ) from error
        self.size, self.halved = rows // 2, self.halved + 1
        self._buffers = self._sweep.buffers(self._arithmetic, self.size, len(self._units))


def _cut(floor: Float[Tensor, " query"], error: Float[Tensor, " query"], fraction: float, dtype: torch.dtype) -> Tensor:
    """The lowest coarse similarity, in its own type, with which a row may still be reported above the floor."""
    least = floor + STEP / 2 - error
    least = torch.where(least > 0, least / (1 + fraction), least / (1 - fraction))
    cut = least.to(dtype)
    below = torch.nextafter(cut, torch.full_like(cut, -torch.inf))
    return torch.where(cut.double() > least, below, cut)


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
