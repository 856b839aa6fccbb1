"""The prefixes of a corpus as a trie, without a node object anywhere.

Sentences in the order of their token ids stand beside those that they share the longest prefix with. A token that
does not belong to the prefix shared with the sentence before is a node, seen for the first time; so nodes are a part of
the tokens, in depth-first order, and equal prefixes are one node by what they are, not by a hash.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

__all__ = ["Bytes8", "Ints", "Mask", "Small", "Trie", "build_trie", "mixed"]

Ints = npt.NDArray[np.int64]
Small = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
Bytes8 = npt.NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Trie:
    """The distinct prefixes of a corpus. A path is a sentence, in the order of token ids."""

    token_ids: Small
    """Of all paths, one after the other."""
    starts: Ints
    """Where each path starts in `token_ids`, and at the end where the last one ends."""
    shared: Small
    """How many leading tokens each path has in common with the one before it."""
    node_of: Small
    """For each token the node that it stands for."""
    first: Ints
    """For each node the token (of `token_ids`) that it is seen at first, ascending."""
    path: Small
    """For each node the path of that token."""
    depth: Small
    """For each node its position: the tokens before it."""
    owner: Small
    """For each node the first sentence of the corpus in which it may be kept; -1 if there is none."""
    rank: Bytes8
    """For each node a seeded hash of its prefix, for choices that do not depend on the corpus's order."""

    @property
    def token(self) -> Small:
        """For each node its token id."""
        return self.token_ids[self.first]

    @property
    def parent(self) -> Small:
        """For each node the node before it; -1 where there is none."""
        return np.where(self.depth > 0, self.node_of[self.first - 1], np.int32(-1))


def build_trie(token_ids: Small, eligible: Mask, starts: Ints, seed: int) -> Trie:
    """Sort the sentences and find what they share.

    Args:
        token_ids: Of all sentences, one after the other.
        eligible: Whether each token may be kept where it stands.
        starts: Where each sentence starts, and at the end where the last one ends.
        seed: Of the hash.

    Cost:
        Sorting, and then a few passes over the tokens; some 40 bytes a token at the peak.
    """
    order = _sorted(token_ids, starts)
    lengths = np.diff(starts)[order]
    begin = np.concatenate([[0], np.cumsum(lengths)])
    from_corpus = np.repeat(starts[order] - begin[:-1], lengths) + np.arange(begin[-1], dtype=np.int64)
    ids, may = token_ids[from_corpus], eligible[from_corpus]
    del from_corpus
    shared = _shared(ids, begin, lengths)
    position = np.arange(begin[-1], dtype=np.int64) - np.repeat(begin[:-1], lengths)
    new = position >= np.repeat(shared, lengths)
    first = np.flatnonzero(new)
    node_of = np.cumsum(new, dtype=np.int32) - np.int32(1)
    owner = np.full(len(first), -1, dtype=np.int32)
    rank = np.empty(len(first), dtype=np.uint64)
    _descend(ids, may, begin, lengths, shared, order, seed, node_of, owner, rank)
    return Trie(
        token_ids=ids,
        starts=begin,
        shared=shared,
        node_of=node_of,
        first=first,
        path=np.repeat(np.arange(len(order), dtype=np.int32), lengths)[first],
        depth=position[first].astype(np.int32),
        owner=owner,
        rank=rank,
    )


def mixed(above: Bytes8, token: npt.NDArray[np.integer]) -> Bytes8:
    """One step of a hash along a prefix (splitmix64, Steele et al. 2014), wrapping at 2^64."""
    mixed = above * np.uint64(0xD1342543DE82EF95) + token.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _sorted(token_ids: Small, starts: Ints) -> Ints:
    """The sentences by their token ids; equal ones by their place in the corpus."""
    raw = token_ids.astype(">i4").tobytes()  # big-endian: bytes then sort as the numbers do
    ends = (4 * starts).tolist()
    keys = [raw[start:end] for start, end in pairwise(ends)]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


def _shared(ids: Small, begin: Ints, lengths: Ints) -> Small:
    shared = np.zeros(len(lengths), dtype=np.int32)
    same = np.arange(1, len(lengths), dtype=np.int64)
    depth = 0
    while len(same):
        same = same[(lengths[same] > depth) & (lengths[same - 1] > depth)]
        same = same[ids[begin[same] + depth] == ids[begin[same - 1] + depth]]
        shared[same] += 1
        depth += 1
    return shared


def _descend(
    ids: Small,
    may: Mask,
    begin: Ints,
    lengths: Ints,
    shared: Small,
    order: Ints,
    seed: int,
    node_of: Small,
    owner: Small,
    rank: Bytes8,
) -> None:
    """Fill in what depends on the paths through a node, one depth after the other."""
    above = np.full(len(lengths), seed, dtype=np.uint64)  # of each path, the hash so far
    active = np.arange(len(lengths), dtype=np.int64)
    nobody = np.int64(len(lengths))
    for depth in range(int(lengths.max(initial=0))):
        active = active[lengths[active] > depth]
        at = begin[active] + depth
        opens = shared[active] <= depth
        group = np.flatnonzero(opens)  # the first active path always opens one: it shares nothing with a shorter path
        nodes = node_of[at[group]]
        node_of[at] = np.repeat(nodes, np.diff(np.append(group, len(at))))
        above[active] = mixed(above[active], ids[at])
        rank[nodes] = above[active[group]]
        earliest = np.minimum.reduceat(np.where(may[at], order[active], nobody), group)
        owner[nodes] = np.where(earliest < nobody, earliest, -1)
