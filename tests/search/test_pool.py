import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchlens.search.pool import Pairs, Pool


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 5), st.booleans(), st.integers(1, 9))
def test_the_best_k_whatever_the_bounds(seed: int, queries: int, k: int, grouped: bool, steps: int) -> None:
    """Rows stream by with bounds of any width; pruned and settled at any moment, the result is that of sorting."""
    rng = np.random.default_rng(seed)
    rows = 40
    groups = torch.from_numpy(rng.integers(0, 12, rows)) if grouped else None
    truth = torch.from_numpy(rng.integers(-4, 5, (queries, rows))).float() / 4  # ties abound
    pool = Pool(queries, k, groups)
    cuts = np.sort(rng.integers(0, rows + 1, steps))
    for start, stop in zip([0, *cuts], [*cuts, rows], strict=True):
        at, query = (
            part.flatten() for part in torch.meshgrid(torch.arange(start, stop), torch.arange(queries), indexing="ij")
        )
        exact = truth[query, at]
        width = torch.from_numpy(rng.choice([0.0, 0.25, 1.0], (2, len(at)))).float()
        pairs = Pairs(query, torch.zeros_like(at), at, exact - width[0], exact + width[1])
        pool.add(pairs[pairs.upper > pool.floor[pairs.query]])
        match rng.integers(3):
            case 0:
                assert torch.equal(pool.prune(), torch.bincount(_pending(pool), minlength=queries))
            case 1:
                pool.settle(lambda pairs: truth[pairs.query, pairs.row])
    pool.prune()
    pool.settle(lambda pairs: truth[pairs.query, pairs.row])
    assert len(pool) == 0
    for number, (found, scores) in enumerate(
        zip(pool.best.rows.tolist(), pool.best.similarities.tolist(), strict=True)
    ):
        ranking = sorted(range(rows), key=lambda row: (-float(truth[number, row]), row))
        if groups is not None:
            ranking = list({int(groups[row]): row for row in reversed(ranking)}.values())
            ranking.sort(key=lambda row: (-float(truth[number, row]), row))
        expected = ranking[:k] + [-1] * (k - len(ranking))
        assert found == expected
        assert scores == [float(truth[number, row]) if row >= 0 else -np.inf for row in expected]


def _pending(pool: Pool) -> torch.Tensor:
    return torch.cat([torch.empty(0, dtype=torch.long), *(pairs.query for pairs in pool._pending)])


def test_what_is_given_up_stays_away() -> None:
    pool = Pool(2, 1)
    query = torch.tensor([0, 1])
    pairs = Pairs(query, torch.zeros(2).long(), torch.zeros(2).long(), torch.zeros(2), torch.ones(2))
    pool.add(pairs)
    pool.give_up(torch.tensor([True, False]))
    assert len(pool) == 1
    assert pool.floor.tolist() == [torch.inf, -torch.inf]
    assert not (pairs.upper > pool.floor[query])[0]
    assert pool.settle(lambda pairs: pairs.upper) == 1
    assert pool.best.similarities.flatten().tolist() == [-torch.inf, 1.0]
