import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchlens.bank.statistics import measure
from patchlens.errors import OptionError
from patchlens.search import coarse, sweep
from patchlens.search.exact import ExactIndex
from patchlens.search.rows import JoinedRows, MemoryRows
from patchlens.search.space import SPACES, make_space


def napkin(rows: MemoryRows, queries: np.ndarray, k: int, space: str) -> list[list[tuple[int, int, float]]]:
    """Centred or standardised cosines, as one would write them."""
    unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)  # noqa: E731
    lists: list[list[tuple[int, int, float]]] = [[] for _ in queries]
    for layer in sorted(rows.layers):
        vectors = unit(rows.vectors(layer).double().numpy())
        mean, std = vectors.mean(axis=0), vectors.std(axis=0)
        weight = np.where(std > 1e-6 * std.max(), 1 / np.maximum(std, 1e-300), 0) if space == "standardised" else 1.0
        found = unit((unit(queries) - mean) * weight) @ unit((vectors - mean) * weight).T
        for query, scores in enumerate(found):
            lists[query] += [(layer, row, float(score)) for row, score in enumerate(scores)]
    return [sorted(found, key=lambda match: -match[2])[:k] for found in lists]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from(["centred", "standardised"]),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int8]),
    st.floats(0, 40),
    st.booleans(),
)
def test_as_on_a_napkin(seed: int, space: str, dtype: torch.dtype, pull: float, rough: bool) -> None:
    """With a mean that is up to 40 times what the rows differ by."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=24) * np.where(np.arange(24) < 2, pull, 0.3)
    values = [torch.from_numpy(rng.normal(size=(60, 24)) + mean) for _ in range(2)]
    rows = MemoryRows((2, 6), [(value * (3 if dtype == torch.int8 else 1)).to(dtype) for value in values])
    queries = rng.normal(size=(3, 24)) + mean
    before = sweep._MANY, sweep._SMALL, sweep.ladder
    if rough:
        sweep._MANY, sweep._SMALL, sweep.ladder = 0, -1, lambda *_: coarse.ARITHMETICS  # type: ignore[assignment]
    try:
        matches = ExactIndex(rows, space=space, block_rows=17).search(torch.from_numpy(queries), 7)
    finally:
        sweep._MANY, sweep._SMALL, sweep.ladder = before  # type: ignore[assignment]
    for query, expected in enumerate(napkin(rows, queries, 7, space)):
        assert matches.similarities[query].tolist() == pytest.approx([match[2] for match in expected], abs=3e-7)
        mine = list(zip(matches.layers[query].tolist(), matches.rows[query].tolist(), strict=True))
        apart = np.diff([match[2] for match in expected])
        if len(apart) == 0 or np.abs(apart).min() > 1e-6:
            assert mine == [match[:2] for match in expected]


def test_rows_that_are_the_mean_point_nowhere() -> None:
    rows = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    matches = ExactIndex(MemoryRows((0,), [rows]), space="centred").search(torch.tensor([[1.0, 0.0]]), 3)
    assert matches.similarities.tolist() == [[0.0, 0.0, 0.0]]
    assert matches.rows.tolist() == [[0, 1, 2]]


def test_what_a_common_mean_hides() -> None:
    """One direction that all rows share makes all cosines 1; without it the nearest row is clear."""
    torch.manual_seed(0)
    detail = torch.randn(200, 16)
    shared = torch.zeros(16)
    shared[3] = 500.0
    queries = detail[:5] + 0.1 * torch.randn(5, 16) + shared
    rows = MemoryRows((0,), [detail + shared])
    raw = ExactIndex(rows).search(queries, 200).similarities
    assert float(raw.min()) > 0.999
    for space in ("centred", "standardised"):
        found = ExactIndex(rows, space=space).search(queries, 200)
        assert found.rows[:, 0].tolist() == [0, 1, 2, 3, 4]
        assert float(found.similarities[:, 0].min()) > 0.9
        assert float(found.similarities.min()) < 0


def test_one_bank_in_parts_has_the_same_space() -> None:
    torch.manual_seed(0)
    whole = torch.randn(50, 8) + 2
    queries = torch.randn(3, 8) + 2
    parts = [MemoryRows((0,), [part]) for part in (whole[:13], whole[13:])]
    for space in SPACES:
        one = ExactIndex(MemoryRows((0,), [whole]), space=space).search(queries, 10)
        two = ExactIndex(parts, space=space).search(queries, 10)
        assert torch.equal(one.rows, two.rows)
        assert torch.allclose(one.similarities, two.similarities, atol=1e-6)


def test_an_unknown_space() -> None:
    rows = MemoryRows((0,), [torch.eye(3)])
    with pytest.raises(OptionError, match="the space 'whitened': expected one of raw, centred, standardised"):
        make_space("whitened", lambda: measure(rows))
    assert make_space("raw", lambda: measure(JoinedRows([rows]))) is None
