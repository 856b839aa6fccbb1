"""The rows most similar to a vector: exactly, in one pass. Rows and layers are numbers; words are looked up after."""

from patchlens.search.exact import ExactIndex
from patchlens.search.matches import Cost, Matches
from patchlens.search.rows import JoinedRows, MemoryRows, RowSource

__all__ = ["Cost", "ExactIndex", "JoinedRows", "Matches", "MemoryRows", "RowSource"]
