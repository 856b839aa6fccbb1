"""The rows most similar to a vector, found exactly. Knows no words: rows and layers go out as numbers."""

from patchlens.search.exact import ExactIndex
from patchlens.search.matches import Matches
from patchlens.search.rows import MemoryRows, RowSource

__all__ = ["ExactIndex", "Matches", "MemoryRows", "RowSource"]
