"""Approximate search with faiss, for banks that are asked so often that one pass over the rows is too slow.

faiss proposes candidates; their similarities are computed as exactly as `ExactIndex` does, so what is reported is true.
What may be missing is measured: the first search, and `measure_recall`, compare with exact search.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from patchlens.axes import Float
from patchlens.errors import MissingExtra, OptionError
from patchlens.progress import Report, silent
from patchlens.search.coarse import lengths_of
from patchlens.search.exact import ExactIndex
from patchlens.search.matches import Cost, Matches
from patchlens.search.pool import Pairs, Pool
from patchlens.search.rows import RowSource
from patchlens.search.score import directions

__all__ = ["ApproximateIndex"]

_ROWS = 16_384  # handed to faiss at a time
_TRAINED = 64  # rows of a sample for each list, more of which faiss would leave aside
_MEASURED = 64  # queries that recall is measured with


class ApproximateIndex:
    """Finds most of the most similar rows by a compressed copy of them in memory; needs the extra `faiss`.

    Example:
        >>> index = ApproximateIndex(bank)  # doctest: +SKIP
        >>> index.search(states, k=5)  # doctest: +SKIP
        Matches(576 queries × 5, best 0.913, recall 0.987)
    """

    def __init__(
        self,
        rows: RowSource | Sequence[RowSource],
        layers: Iterable[int] | None = None,
        *,
        kind: str | None = None,
        candidates: int = 200,
        probes: int | None = None,
        report: Report = silent,
    ) -> None:
        """Compress all rows; they are read once, and a sample of them before that.

        Args:
            rows: As `ExactIndex` takes them.
            layers: Which to search; None for all.
            kind: What faiss's index factory takes; None for inverted lists of one-bit codes, "IVF…,RaBitQ".
            candidates: Rows that faiss proposes for each query and that are scored.
            probes: Lists that are looked into; None for one in eight. For kinds that have lists.
            report: Called with stage "index" and rows done.

        Raises:
            MissingExtra: faiss is not installed.
            OptionError: faiss does not know `kind`, or `candidates` is out of range.

        Cost:
            Memory: d_model/8 + some 16 bytes a row with one-bit codes.
        """
        self._faiss = _faiss()
        self.exact = ExactIndex(rows, layers)
        """Exact search over the same rows."""
        if not 1 <= candidates <= len(self.exact):
            raise OptionError(f"Searching among {candidates} candidates: choose from 1 to {len(self.exact):,}.")
        self.candidates = candidates
        lists = max(1, min(round(4 * len(self.exact) ** 0.5), len(self.exact) // 39))
        self.kind = kind or f"IVF{lists},RaBitQ"
        self._index = self._made(lists)
        self._fill(report)
        if hasattr(self._index, "nprobe"):
            self._index.nprobe = probes or max(1, self._index.nlist // 8)
        self.recall: dict[int, float] = {}
        """By k: the share of the exact matches that were found, of the queries it was measured with."""

    def __len__(self) -> int:
        """Rows over all layers searched."""
        return len(self.exact)

    def search(self, queries: Float[Tensor, "query d_model"], k: int) -> Matches:
        """Find k rows for each query that are most similar among the candidates.

        Raises:
            OptionError: k is above `candidates`; otherwise as `ExactIndex.search`.

        Returns:
            True similarities, most similar first. `recall` is that of the first search with this k, whose first 64
            queries were searched for exactly as well.
        """
        if not 1 <= k <= self.candidates:
            raise OptionError(
                f"Searching for {k} rows among {self.candidates} candidates: choose k from 1 to {self.candidates}, or "
                "make the index with more candidates."
            )
        if k not in self.recall:
            self.measure_recall(queries[:_MEASURED], k)
        return replace(self._found(queries, k), recall=self.recall[k])

    def measure_recall(self, queries: Float[Tensor, "query d_model"], k: int) -> float:
        """Compare with exact search: the share of its k matches that are found, over all queries."""
        found, truth = self._found(queries, k), self.exact.search(queries, k)
        size = len(self.exact.source)
        mine, theirs = (each.layers * size + each.rows for each in (found, truth))
        hit = (theirs[:, :, None] == mine[:, None, :]).any(dim=2)
        self.recall[k] = float(hit.float().mean()) if hit.numel() else 1.0
        return self.recall[k]

    def _found(self, queries: Float[Tensor, "query d_model"], k: int) -> Matches:
        started = time.perf_counter()
        units = self.exact.checked(queries)
        _, numbers = self._index.search(units.float().numpy(), self.candidates)
        proposed = torch.from_numpy(numbers).sort(dim=1).values
        query = torch.arange(len(units)).repeat_interleave(self.candidates)[(proposed >= 0).flatten()]
        number = proposed[proposed >= 0]  # where lists ran out, faiss gives -1
        size = len(self.exact.source)
        layer, row = torch.tensor(self.exact.layers)[number // size], number % size
        scores = self.exact.similarities(units, query, layer, row)
        pool = Pool(len(units), k)
        pool.add(Pairs(query, layer, row, scores, scores))
        pool.settle(lambda pairs: pairs.lower)
        cost = Cost(time.perf_counter() - started, 0, len(number), 0, (self.kind,), 0)
        return Matches(pool.best.rows, pool.best.layers, pool.best.similarities, cost, self.exact.source)

    def _made(self, lists: int) -> Any:
        try:
            index = self._faiss.index_factory(self.exact.source.d_model, self.kind, self._faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            raise OptionError(
                f"Making an approximate index of the kind {self.kind!r}: faiss does not know it. Expected what its "
                "index factory takes, such as 'IVF1024,RaBitQ' or 'HNSW32,SQ8'."
            ) from error
        if not index.is_trained:
            generator = torch.Generator().manual_seed(0)
            most = min(len(self.exact), max(_TRAINED * lists, 4096))
            drawn = torch.randperm(len(self.exact), generator=generator)[:most].sort().values
            size = len(self.exact.source)
            parts = [
                directions(self.exact.source.gather(layer, drawn[drawn // size == place] % size)).float()
                for place, layer in enumerate(self.exact.layers)
            ]
            index.train(torch.cat(parts).numpy())
        return index

    def _fill(self, report: Report) -> None:
        done = 0
        for layer in self.exact.layers:
            for _, block in self.exact.source.blocks(layer, _ROWS):
                lengths = lengths_of(block).float()
                units = block.float() / lengths.where(lengths > 0, 1.0)[:, None]
                self._index.add(units.numpy())
                done += len(block)
                report("index", done, len(self.exact))


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra("Approximate search needs an extra: pip install 'patchlens[faiss]'.") from error
    return faiss
