"""What a search found. Arrays of numbers; words and sentences are looked up when they are asked for."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
from torch import Tensor

from patchlens.axes import Float, Int
from patchlens.errors import OptionError
from patchlens.search.rows import RowSource

__all__ = ["Cost", "Matches"]


@dataclass(frozen=True)
class Cost:
    """What a search took."""

    seconds: float
    """From the call to the result."""
    compared: int
    """Pairs of a query and a row whose similarity was computed, coarsely or finely."""
    rescored: int
    """Pairs that were left after that, and computed in float64."""
    refined: int
    """Queries whose matches the coarsest arithmetic could not tell apart, so that a finer one had to."""
    arithmetics: tuple[str, ...]
    """Those that were used, coarse to fine."""
    block_rows: int
    """Most rows that were compared at a time."""
    halved: int = 0
    """How often blocks were made smaller because memory ran out."""

    def __repr__(self) -> str:
        finer = f", {self.refined:,} queries refined" if self.refined else ""
        smaller = f", blocks halved {self.halved} times for want of memory" if self.halved else ""
        return (
            f"Cost({self.seconds:.3g} s: {self.compared:,} pairs in {', then '.join(self.arithmetics) or 'nothing'}, "
            f"{self.rescored:,} rescored{finer}{smaller})"
        )

    def __add__(self, other: "Cost") -> "Cost":
        """Of both searches together."""
        return Cost(
            seconds=self.seconds + other.seconds,
            compared=self.compared + other.compared,
            rescored=self.rescored + other.rescored,
            refined=self.refined + other.refined,
            arithmetics=self.arithmetics + tuple(name for name in other.arithmetics if name not in self.arithmetics),
            block_rows=max(self.block_rows, other.block_rows),
            halved=self.halved + other.halved,
        )


@dataclass(frozen=True, eq=False)
class Matches:
    """The k most similar rows of each query over all layers searched, most similar first."""

    rows: Int[Tensor, "query k"]
    """Row numbers, int64."""
    layers: Int[Tensor, "query k"]
    """The layer that each row was found at, int64."""
    similarities: Float[Tensor, "query k"]
    """Cosine in [-1, 1], float32."""
    cost: Cost | None = None
    """What the search took."""
    source: RowSource | None = field(default=None, repr=False)
    """Where the rows are, and their words."""
    recall: float | None = None
    """Of approximate search: the share of the true matches that were found, measured on some queries. None: all."""

    def __len__(self) -> int:
        """Queries."""
        return len(self.rows)

    def __repr__(self) -> str:
        queries, k = self.rows.shape
        best = f", best {float(self.similarities.max()):.3f}" if self.similarities.numel() else ""
        missed = "" if self.recall is None else f", recall {self.recall:.3f}"
        return f"Matches({queries} queries × {k}{best}{missed})"

    @cached_property
    def table(self) -> pa.Table:
        """One line a match: query, rank from 1, layer, row, similarity, then what the bank says of the row.

        Of several banks also `bank`, counted from 0.

        Raises:
            OptionError: The rows are not a bank's, so they have no words.
        """
        if self.source is None:
            raise OptionError("These matches do not know where their rows are. Take them from a search.")
        queries, k = self.rows.shape
        rows = self.rows.flatten().numpy()
        columns = {
            "query": np.repeat(np.arange(queries), k),
            "rank": np.tile(np.arange(1, k + 1), queries),
            "layer": self.layers.flatten().numpy(),
            "row": rows,
            "similarity": self.similarities.flatten().numpy(),
        }
        described = self.source.describe(rows)
        return pa.table(
            {name: pa.array(column) for name, column in columns.items()}
            | {name: described[name] for name in described.column_names}
        )

    @property
    def words(self) -> list[list[str]]:
        """The words of each query's matches, best first."""
        return self._texts("word")

    @property
    def sentences(self) -> list[list[str]]:
        """The sentences that those words stand in."""
        return self._texts("sentence")

    def _texts(self, column: str) -> list[list[str]]:
        k = self.rows.shape[1]
        found = self.table[column].to_pylist()
        return [found[start : start + k] for start in range(0, len(found), k)]
