"""What a search found. Arrays of numbers; words and sentences are the bank's."""

from dataclasses import dataclass

from torch import Tensor

from patchlens.axes import Float, Int

__all__ = ["Matches"]


@dataclass(frozen=True, eq=False)
class Matches:
    """The k most similar rows of each query over all layers searched, most similar first."""

    rows: Int[Tensor, "query k"]
    """Row numbers, int64."""
    layers: Int[Tensor, "query k"]
    """The layer that each row was found at, int64."""
    similarities: Float[Tensor, "query k"]
    """Cosine in [-1, 1], float32."""

    def __len__(self) -> int:
        """Queries."""
        return len(self.rows)

    def __repr__(self) -> str:
        queries, k = self.rows.shape
        best = f", best {float(self.similarities.max()):.3f}" if self.similarities.numel() else ""
        return f"Matches({queries} queries × {k}{best})"
