"""What a sweep does when arithmetic or memory does not suffice."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from patchlens.errors import OutOfMemory
from patchlens.search import coarse, sweep
from patchlens.search.exact import ExactIndex
from patchlens.search.matches import Cost
from patchlens.search.rows import MemoryRows
from reference.search import nearest

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _rough(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 first, even where it would not pay."""
    monkeypatch.setattr(sweep, "_MANY", 0)
    monkeypatch.setattr(sweep, "_SMALL", -1)
    monkeypatch.setattr(sweep, "ladder", lambda *_: coarse.ARITHMETICS)


def found(rows: MemoryRows, queries: Tensor, k: int, **options: Any) -> tuple[list[list[int]], Cost]:
    matches = ExactIndex(rows, **options).search(queries, k)
    assert matches.cost is not None
    return matches.rows.tolist(), matches.cost


def truth(rows: MemoryRows, queries: Tensor, k: int) -> list[list[int]]:
    layers = {layer: rows.vectors(layer).double().numpy() for layer in rows.layers}
    return [[row for _, row, _ in ranking] for ranking in nearest(layers, queries.double().numpy(), k)]


def test_plain_rows_need_bfloat16_only() -> None:
    torch.manual_seed(0)
    rows = MemoryRows((0,), [torch.randn(5000, 128)])
    queries = torch.randn(20, 128)
    best, cost = found(rows, queries, 5)
    assert best == truth(rows, queries, 5)
    assert (cost.arithmetics, cost.refined, cost.compared) == (("bfloat16",), 0, 20 * 5000)
    assert 20 * 5 <= cost.rescored < 20 * 5000 / 20, "few rows are left to score"


def test_rows_that_bfloat16_puts_in_the_wrong_order() -> None:
    """The adversary: rows 2^-12 apart, which bfloat16 cannot hold, among rows that it can."""
    rng = np.random.default_rng(0)
    centre = rng.normal(size=64)
    near = centre + 2.0**-12 * rng.normal(size=(600, 64))
    rows = MemoryRows((0,), [torch.from_numpy(np.concatenate([near, rng.normal(size=(700, 64))])).float()])
    queries = torch.from_numpy(np.stack([centre, rng.normal(size=64)]))
    plain = torch.nn.functional.normalize(rows.vectors(0), dim=1).bfloat16()
    order = (torch.nn.functional.normalize(queries, dim=1).bfloat16() @ plain.T).topk(3).indices.tolist()
    expected = truth(rows, queries, 3)
    assert order[0] != expected[0], "bfloat16 alone is wrong"
    for block in (None, 13, 1000):
        best, cost = found(rows, queries, 3, block_rows=block)
        assert best == expected
        assert cost.arithmetics[:2] == ("bfloat16", "float32")
        assert cost.refined >= 1, "the certificate noticed"


def test_a_bank_of_equal_rows() -> None:
    """Every row is a tie: the first ones win, and not every row is scored."""
    rows = MemoryRows((0, 1), [torch.ones(3000, 48)] * 2)
    best, cost = found(rows, torch.ones(2, 48), 4, block_rows=500)
    assert best == [[0, 1, 2, 3]] * 2
    assert cost.arithmetics == ("bfloat16", "float32", "float64")
    assert cost.rescored < 2000


def test_rows_that_get_better_and_better() -> None:
    angles = torch.linspace(1.5, 0.0, 4000, dtype=torch.float64)
    rows = MemoryRows((0,), [torch.stack([angles.cos(), angles.sin()], dim=1).float()])
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    for block in (64, 4000):
        assert found(rows, queries, 7, block_rows=block)[0] == truth(rows, queries, 7)


class Short:
    """A device that runs out of memory above some rows."""

    def __init__(self, rows: int, error: Exception) -> None:
        self.rows = rows
        self.error = error

    def __call__(self, rows: Any, *others: Any) -> Any:
        if len(rows.values) > self.rows:
            raise self.error
        return coarse.product(rows, *others)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("no"), MemoryError("no"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9")],
)
def test_smaller_blocks_where_memory_runs_out(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    rows, queries = MemoryRows((0, 3), [torch.randn(700, 16) for _ in range(2)]), torch.randn(5, 16)
    expected, cost = found(rows, queries, 9)
    assert cost.halved == 0
    monkeypatch.setattr(sweep, "product", Short(40, error))
    best, cost = found(rows, queries, 9)
    assert best == expected
    assert (cost.halved, cost.block_rows) == (3, 32)
    assert "blocks halved 3 times" in repr(cost)


def test_no_memory_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "product", Short(0, torch.OutOfMemoryError("CUDA out of memory")))
    with pytest.raises(OutOfMemory, match=r"not enough memory for one row.*CUDA out of memory.*fewer queries"):
        found(MemoryRows((0,), [torch.eye(8)]), torch.ones(1, 8), 1)


def test_other_failures_are_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "product", Short(0, RuntimeError("something else")))
    with pytest.raises(RuntimeError, match="something else"):
        found(MemoryRows((0,), [torch.eye(8)]), torch.ones(1, 8), 1)


class Counted(MemoryRows):
    """Counts how often its rows are read."""

    reads = 0

    def blocks(self, layer: int, size: int) -> Iterator[tuple[int, Tensor]]:
        self.reads += 1
        yield from super().blocks(layer, size)


def test_all_queries_share_one_pass() -> None:
    torch.manual_seed(0)
    rows = Counted((0, 1), [torch.randn(900, 32) for _ in range(2)])
    found(rows, torch.randn(200, 32), 3)
    assert rows.reads == 2, "once a layer"


def test_a_cost_in_words() -> None:
    one = Cost(0.5, 2000, 30, 2, ("bfloat16", "float32"), 64)
    assert repr(one) == "Cost(0.5 s: 2,000 pairs in bfloat16, then float32, 30 rescored, 2 queries refined)"
    both = one + Cost(1.0, 10, 5, 0, ("bfloat16",), 128, 1)
    assert both == Cost(1.5, 2010, 35, 2, ("bfloat16", "float32"), 128, 1)
