"""Which prefixes to run so that a bank gets the most different contexts for the least work.

Rules that fill every token's quota pay for it: a token that occurs only late in long sentences costs all the prefixes
before it, most of which end in tokens that have their contexts already. `spread` buys contexts as long as they are
cheap. It first gives every token id one context, the cheapest way it finds; then it maximises the sum over tokens of
1 + 1/√2 + … + 1/√n (n contexts kept of a token, at most the cap: the tenth tells less than the second) while not more
than `PREFIXES_PER_ROW` prefixes are run for each context kept; a corpus of a few hundred sentences keeps all it has.
Greedily: a path of the trie is bought up to where what it adds is worth the falling price per prefix, paths in a
seeded order that ignores the corpus's.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from patchlens.bank.trie import Ints, Mask, Trie

__all__ = ["PREFIXES_PER_ROW", "needed_nodes"]

PREFIXES_PER_ROW = 1.3
"""Most prefixes that are run for one context kept; more only where giving each token a context needs it."""

_FREE_PREFIXES = 10_000
"""So many may be run without counting: a small corpus costs little, and each of its contexts is missed."""

_CHUNK = 1 << 17  # tokens looked at together: prices fall on counts at most this old
_DISCOUNT = 0.85  # from one round of prices to the next

Floats = npt.NDArray[np.float64]


def needed_nodes(trie: Trie, per_token: int) -> Mask:
    """Choose the nodes to run.

    Args:
        trie: Of the corpus.
        per_token: Contexts kept per token id, at most.

    Returns:
        For each node whether it is run; with a node, all before it on its path are.
    """
    market = _Market(trie, per_token)
    price = 1.0
    while market.missing() and price > 1e-4:  # a path has at most some thousand nodes
        for paths in market.chunks():
            market.buy(paths, price, only_first=True)
        price *= _DISCOUNT
    price = 1.0
    while price > 1e-3 and not market.full():
        bought = [market.buy(paths, price, only_first=False) for paths in market.chunks()]
        if None in bought and not any(bought):
            break
        price *= _DISCOUNT
    return market.needed


class _Market:
    """What has been bought so far, and what a path is still worth."""

    def __init__(self, trie: Trie, per_token: int) -> None:
        self._trie = trie
        self._token = trie.token
        self._may = trie.owner >= 0
        available = np.bincount(self._token[self._may], minlength=int(trie.token_ids.max(initial=0)) + 1)
        self._quota = np.minimum(available, per_token)
        self._count = np.zeros_like(self._quota)
        self.needed: Mask = np.zeros(len(trie.first), dtype=bool)
        self._run = 0
        # A path that is the beginning of the one before adds nothing to it.
        adds = np.unique(trie.path)
        ends = trie.rank[trie.node_of[trie.starts[adds + 1] - 1]]
        self._paths: Ints = adds[np.argsort(ends, kind="stable")].astype(np.int64)

    def missing(self) -> bool:
        """Whether a token has no context yet."""
        return bool((self._count[self._quota > 0] == 0).any())

    def full(self) -> bool:
        """Whether every token has all that it may have."""
        return bool((self._count == self._quota).all())

    def chunks(self) -> Iterator[Ints]:
        """The paths, some at a time."""
        total = np.cumsum(np.diff(self._trie.starts)[self._paths])
        cuts = np.searchsorted(total, np.arange(_CHUNK, total[-1] if len(total) else 0, _CHUNK))
        yield from np.split(self._paths, np.unique(cuts))

    def buy(self, paths: Ints, price: float, *, only_first: bool) -> int | None:
        """Buy what is worth the price on some paths.

        Args:
            paths: Which.
            price: Worth per prefix run.
            only_first: Count only a token's first context as worth anything.

        Returns:
            Prefixes bought; None, and nothing was, where the budget did not allow it.
        """
        trie = self._trie
        lengths = np.diff(trie.starts)[paths]
        begin = np.concatenate([[0], np.cumsum(lengths)])
        at = np.repeat(trie.starts[paths] - begin[:-1], lengths) + np.arange(begin[-1], dtype=np.int64)
        nodes, tokens = trie.node_of[at], trie.token_ids[at]
        cost = ~self.needed[nodes]
        spent = _sums(cost.astype(np.float64), begin, lengths)
        left = (1 if only_first else self._quota[tokens]) - self._count[tokens]
        wanted = np.flatnonzero(cost & self._may[nodes] & (left > 0))
        # First as if each path were alone, then with the tokens that earlier paths of this chunk claim.
        cut = self._cuts(
            wanted, np.zeros(len(wanted), dtype=np.int64), tokens, spent, begin, lengths, price, only_first
        )
        inside = np.arange(begin[-1], dtype=np.int64) - np.repeat(begin[:-1], lengths) < np.repeat(cut, lengths)
        wanted = wanted[inside[wanted]]
        turn = _turns(tokens[wanted])
        granted = turn < left[wanted]
        cut = self._cuts(wanted[granted], turn[granted], tokens, spent, begin, lengths, price, only_first)
        inside = np.arange(begin[-1], dtype=np.int64) - np.repeat(begin[:-1], lengths) < np.repeat(cut, lengths)
        bought = np.unique(nodes[inside & cost])
        counted = np.bincount(self._token[bought[self._may[bought]]], minlength=len(self._count))
        count = np.minimum(self._count + counted, self._quota)
        if not only_first and not self._affordable(len(bought), int(count.sum() - self._count.sum())):
            return None
        self.needed[bought] = True
        self._count, self._run = count, self._run + len(bought)
        return len(bought)

    def _affordable(self, prefixes: int, rows: int) -> bool:
        """Whether all that is bought keeps within the budget, or at least these do: those bring it nearer."""
        total = self._run + prefixes
        within = total <= max(PREFIXES_PER_ROW * (self._count.sum() + rows), _FREE_PREFIXES)
        return bool(within) or prefixes <= PREFIXES_PER_ROW * rows

    def _cuts(
        self,
        wanted: Ints,
        turn: Ints,
        tokens: npt.NDArray[np.int32],
        spent: Floats,
        begin: Ints,
        lengths: Ints,
        price: float,
        only_first: bool,
    ) -> Ints:
        """How many tokens of each path are worth the price; 0 for none."""
        worth = np.zeros(begin[-1])
        worth[wanted] = 1.0 if only_first else 1 / np.sqrt(self._count[tokens[wanted]] + turn + 1)
        good = (worth > 0) & (_sums(worth, begin, lengths) >= price * spent)
        depth = np.arange(1, begin[-1] + 1, dtype=np.int64) - np.repeat(begin[:-1], lengths)
        return np.maximum.reduceat(np.where(good, depth, 0), begin[:-1])


def _sums(values: Floats, begin: Ints, lengths: Ints) -> Floats:
    """Running sums that start again with each path."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    sums: Floats = total[1:] - np.repeat(total[begin[:-1]], lengths)
    return sums


def _turns(keys: npt.NDArray[np.int32]) -> Ints:
    """For each key how many equal ones stand before it."""
    order = np.argsort(keys, kind="stable")
    grouped = keys[order]
    opens = np.diff(grouped, prepend=-1) != 0
    places = np.arange(len(keys), dtype=np.int64)
    turn = np.empty(len(keys), dtype=np.int64)
    turn[order] = places - np.maximum.accumulate(np.where(opens, places, 0))
    return turn
