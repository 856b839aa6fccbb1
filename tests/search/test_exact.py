from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from patchlens.errors import BankMismatch, NonFiniteStates, OptionError
from patchlens.search import coarse, sweep
from patchlens.search.exact import ExactIndex
from patchlens.search.matches import Matches
from patchlens.search.rows import MemoryRows
from reference.search import chosen, nearest

TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
STORED = (*TYPES, torch.int8, torch.float8_e4m3fn)


def listed(matches: Matches) -> list[list[tuple[int, int, float]]]:
    parts = (matches.layers.tolist(), matches.rows.tolist(), matches.similarities.tolist())
    return [list(zip(*query, strict=True)) for query in zip(*parts, strict=True)]


@contextmanager
def rough(used: bool = True) -> Iterator[None]:
    """Start in bfloat16 even where it would not pay, as with rows that are few."""
    before = sweep._MANY, sweep._SMALL, sweep.ladder
    if used:
        sweep._MANY, sweep._SMALL, sweep.ladder = (
            0,
            -1,
            lambda _, stored: (coarse.INT8, *coarse.ARITHMETICS) if stored == torch.int8 else coarse.ARITHMETICS,
        )  # type: ignore[assignment]
    try:
        yield
    finally:
        sweep._MANY, sweep._SMALL, sweep.ladder = before  # type: ignore[assignment]


class Labelled(MemoryRows):
    """Rows with a word each."""

    def __init__(self, rows: MemoryRows, words: list[str]) -> None:
        super().__init__(rows.layers, [rows.vectors(layer) for layer in rows.layers])
        self.words = words

    def labels(self, kind: str) -> pa.Array:
        assert kind in ("word", "sentence")
        return pa.array(self.words)


def reference(rows: MemoryRows, queries: Tensor, k: int) -> list[list[tuple[int, int, float]]]:
    return nearest({layer: rows.vectors(layer).double().numpy() for layer in rows.layers}, queries.double().numpy(), k)


def made(seed: int, sizes: tuple[int, int, int, int], dtype: torch.dtype, whole: bool) -> tuple[MemoryRows, Tensor]:
    """Rows and queries of few distinct values, so that equal rows and ties abound; at any scale."""
    rng = np.random.default_rng(seed)
    n_layers, n_rows, d_model, n_queries = sizes
    if whole:  # small whole numbers: many exact ties, rows of zeros among them
        values = rng.integers(-1, 2, (n_layers, n_rows, d_model)).astype(float)
        queries = rng.integers(-1, 2, (n_queries, d_model)).astype(float)
        queries[:, 0] += 2 * (queries == 0).all(axis=1)
    else:
        few = rng.normal(size=(max(1, n_rows // 2), d_model))
        values = few[rng.integers(0, len(few), (n_layers, n_rows))]
        queries = rng.normal(size=(n_queries, d_model))
    if dtype in (torch.float32, torch.float64):
        exponents = 36 if dtype is torch.float32 else 290
        values = values * 10.0 ** rng.integers(-exponents, exponents, (n_layers, n_rows, 1))
    queries = queries * 10.0 ** rng.integers(-250, 250, (n_queries, 1))
    layers = rng.choice(10, n_layers, replace=False).tolist()
    return MemoryRows(layers, [torch.from_numpy(layer).to(dtype) for layer in values]), torch.from_numpy(queries)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**32),
    st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 9), st.integers(1, 4)),
    st.sampled_from(STORED),
    st.booleans(),
    st.integers(0, 35),
    st.integers(1, 13),
    st.booleans(),
)
def test_equal_to_five_slow_lines(
    seed: int, sizes: tuple[int, int, int, int], dtype: torch.dtype, whole: bool, k: int, block: int, from_rough: bool
) -> None:
    rows, queries = made(seed, sizes, dtype, whole)
    k = 1 + k % (sizes[0] * sizes[1])
    with rough(from_rough):
        found = listed(ExactIndex(rows, block_rows=block).search(queries, k))
        expected = reference(rows, queries, k)
        assert found == expected
        assert found == listed(ExactIndex(rows).search(queries, k)), "the size of blocks changes nothing"


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**32),
    st.tuples(st.integers(1, 3), st.integers(1, 14), st.integers(1, 9), st.integers(1, 4)),
    st.sampled_from(STORED),
    st.booleans(),
    st.integers(0, 35),
    st.integers(1, 13),
    st.booleans(),
    st.booleans(),
)
def test_each_word_once_among_wanted_rows(
    seed: int,
    sizes: tuple[int, int, int, int],
    dtype: torch.dtype,
    whole: bool,
    k: int,
    block: int,
    unique: bool,
    from_rough: bool,
) -> None:
    rows, queries = made(seed, sizes, dtype, whole)
    rng = np.random.default_rng(seed)
    words = rng.choice(["cat", "dog", "sun", "sea"], sizes[1]).tolist()
    where = rng.random(sizes[1]) < 0.6
    where[rng.integers(sizes[1])] = True
    there = (
        len({word for word, wanted in zip(words, where, strict=True) if wanted}) if unique else where.sum() * sizes[0]
    )
    k = 1 + k % int(there)
    whole_ranking = reference(rows, queries, sizes[0] * sizes[1])
    expected = chosen(whole_ranking, k, words if unique else None, where.tolist())
    with rough(from_rough):
        index = ExactIndex(Labelled(rows, words), block_rows=block)
        assert (
            listed(index.search(queries, k, unique="word" if unique else None, where=torch.from_numpy(where)))
            == expected
        )
        with pytest.raises(OptionError, match=f"Choose k from 1 to {there}"):
            index.search(queries, int(there) + 1, unique="word" if unique else None, where=torch.from_numpy(where))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 30), st.booleans(), st.sampled_from(STORED))
def test_splitting_the_bank_changes_nothing(seed: int, cut: int, from_rough: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    layers = [torch.randn(31, 12, generator=generator).to(dtype) for _ in range(2)]
    queries = torch.randn(4, 12, generator=generator)
    parts = [MemoryRows((3, 5), [layer[rows] for layer in layers]) for rows in (slice(cut), slice(cut, None))]
    with rough(from_rough):
        whole = ExactIndex(MemoryRows((3, 5), layers)).search(queries, 20)
        assert listed(ExactIndex(parts).search(queries, 20)) == listed(whole)


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("space", ["raw", "centred", "standardised"])
def test_a_search_leaves_rows_and_queries_as_they_are(dtype: torch.dtype, space: str) -> None:
    torch.manual_seed(0)
    rows, queries = (torch.randn(40, 12) * 3).to(dtype), torch.randn(5, 12)
    before = rows.view(torch.uint8).clone(), queries.clone()
    for from_rough in (False, True):
        with rough(from_rough):
            ExactIndex(MemoryRows((0,), [rows]), space=space).search(queries, 3)
    assert torch.equal(rows.view(torch.uint8), before[0])
    assert torch.equal(queries, before[1])


def test_each_layer_by_itself() -> None:
    torch.manual_seed(0)
    rows = MemoryRows((1, 4), [torch.randn(20, 8) for _ in range(2)])
    queries = torch.randn(3, 8)
    found = ExactIndex(rows).search_each_layer(queries, 5)
    assert list(found) == [1, 4]
    for layer, matches in found.items():
        alone = ExactIndex(MemoryRows((layer,), [rows.vectors(layer)])).search(queries, 5)
        assert listed(matches) == listed(alone)


def test_random_rows() -> None:
    torch.manual_seed(0)
    rows = MemoryRows((1, 4), [torch.randn(20, 8) for _ in range(2)])
    queries = torch.randn(3, 8)
    index = ExactIndex(rows)
    drawn = index.sample(queries, 20, seed=3)
    assert torch.equal(drawn.rows.sort(dim=1).values, torch.arange(20).expand(3, 20)), "each row once"
    for query, found in enumerate(listed(drawn)):
        truth = {match[:2]: match[2] for match in reference(rows, queries[query : query + 1], 40)[0]}
        assert all(truth[layer, row] == similarity for layer, row, similarity in found)
    assert torch.equal(index.sample(queries, 20, seed=3).rows, drawn.rows)
    assert not torch.equal(index.sample(queries, 20, seed=4).rows, drawn.rows)
    with pytest.raises(OptionError, match="Drawing 21 different rows"):
        index.sample(queries, 21)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), dtype=st.sampled_from(STORED), k=st.integers(1, 40), block=st.integers(1, 130))
@pytest.mark.parametrize("from_rough", [False, True])
def test_equal_at_usual_widths(from_rough: bool, seed: int, dtype: torch.dtype, k: int, block: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = MemoryRows((1, 4), [torch.randn(120, 96, generator=generator).to(dtype) for _ in range(2)])
    queries = torch.randn(5, 96, generator=generator)
    with rough(from_rough):
        assert listed(ExactIndex(rows, block_rows=block).search(queries, k)) == reference(rows, queries, k)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_permuting_the_rows_permutes_their_numbers_only(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors, queries = torch.randn(50, 16, generator=generator), torch.randn(4, 16, generator=generator)
    order = torch.randperm(50, generator=generator)
    plain = ExactIndex(MemoryRows((0,), [vectors])).search(queries, 10)
    permuted = ExactIndex(MemoryRows((0,), [vectors[order]])).search(queries, 10)
    assert torch.equal(order[permuted.rows], plain.rows)
    assert torch.equal(permuted.similarities, plain.similarities)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.floats(1e-200, 1e200))
def test_scaling_a_query_changes_nothing(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    index = ExactIndex(MemoryRows((0,), [torch.randn(50, 16, generator=generator)]))
    queries = torch.randn(4, 16, generator=generator, dtype=torch.float64)
    plain, scaled = index.search(queries, 10), index.search(queries * scale, 10)
    assert torch.equal(scaled.rows, plain.rows)
    assert torch.equal(scaled.similarities, plain.similarities)


@pytest.mark.parametrize("dtype", TYPES)
def test_a_row_finds_itself_first(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(200, 64), dim=1).to(dtype)
    matches = ExactIndex(MemoryRows((5,), [vectors])).search(vectors, 2)
    assert torch.equal(matches.rows[:, 0], torch.arange(200))
    assert torch.all(matches.similarities[:, 0] == 1)
    assert torch.all(matches.similarities[:, 1] < 1)


def test_ties_go_to_the_lower_layer_then_the_lower_row() -> None:
    same = torch.tensor([[1.0, 2.0, 3.0]]).repeat(4, 1)
    index = ExactIndex(MemoryRows((9, 2), [same, same]), block_rows=3)
    matches = index.search(same[:1], 6)
    assert matches.layers.tolist() == [[2, 2, 2, 2, 9, 9]]
    assert matches.rows.tolist() == [[0, 1, 2, 3, 0, 1]]


def test_rows_nearer_together_than_float32_can_tell() -> None:
    """All rows within one part in 10^7 of each other: the coarse pass orders them wrongly, the result is right."""
    rng = np.random.default_rng(0)
    centre = rng.normal(size=512)
    vectors = torch.from_numpy(centre + 3e-4 * rng.normal(size=(900, 512))).float()
    query = torch.from_numpy(centre + 3e-4 * rng.normal(size=(1, 512)))
    rows = MemoryRows((0,), [vectors])
    expected = reference(rows, query, 20)
    coarse = (query.float() / query.norm()) @ (vectors / vectors.norm(dim=1, keepdim=True)).T
    assert coarse[0].topk(20).indices.tolist() != [row for _, row, _ in expected[0]], "float32 alone is not enough"
    for block in (7, 64, 900):
        with rough():
            matches = ExactIndex(rows, block_rows=block).search(query, 20)
        assert listed(matches) == expected
        assert matches.cost is not None
        assert matches.cost.arithmetics == ("bfloat16", "float32", "float64")
        assert matches.cost.refined == 2, "neither bfloat16 nor float32 could tell"


def test_a_global_setting_for_rough_products_changes_nothing() -> None:
    torch.manual_seed(0)
    index = ExactIndex(MemoryRows((0,), [torch.randn(300, 64)]))
    queries = torch.randn(5, 64)
    expected = index.search(queries, 5)
    torch.set_float32_matmul_precision("medium")
    try:
        rough = index.search(queries, 5)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert listed(rough) == listed(expected)


def test_chosen_layers() -> None:
    torch.manual_seed(0)
    rows = MemoryRows((1, 2, 3), [torch.randn(10, 4) for _ in range(3)])
    index = ExactIndex(rows, [3, 1, 3])
    assert (index.layers, len(index)) == ((1, 3), 20)
    assert set(index.search(torch.randn(2, 4), 20).layers.flatten().tolist()) == {1, 3}


def test_many_and_no_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    index = ExactIndex(MemoryRows((1,), [torch.randn(10, 4)]))
    queries = torch.randn(9, 4)
    expected = index.search(queries, 3)
    monkeypatch.setattr(sweep, "_QUERIES", 2)
    assert listed(index.search(queries, 3)) == listed(expected)
    assert index.search(queries[:0], 3).rows.shape == (0, 3)


def test_a_thousand_matches() -> None:
    torch.manual_seed(0)
    rows = MemoryRows((1, 2), [torch.randn(1500, 8) for _ in range(2)])
    queries = torch.randn(2, 8)
    expected = reference(rows, queries, 1000)
    for from_rough in (False, True):
        with rough(from_rough):
            assert listed(ExactIndex(rows).search(queries, 1000)) == expected


@pytest.mark.parametrize("k", [0, -1, 21])
def test_k_out_of_range(k: int) -> None:
    index = ExactIndex(MemoryRows((1, 2), [torch.eye(10)] * 2))
    assert index.search(torch.ones(1, 10), 20).rows.shape == (1, 20)
    with pytest.raises(OptionError, match=f"the {k} most similar.*Choose k from 1 to 20"):
        index.search(torch.ones(1, 10), k)


def test_layers_that_are_not_there() -> None:
    rows = MemoryRows((1, 2), [torch.eye(3)] * 2)
    with pytest.raises(OptionError, match="layers 2, 5: there are rows of 1, 2"):
        ExactIndex(rows, [5, 2])
    with pytest.raises(OptionError, match="none at all"):
        ExactIndex(rows, [])
    with pytest.raises(OptionError, match="blocks of 0"):
        ExactIndex(rows, block_rows=0)


@pytest.mark.parametrize("device", ["cuda:7", "nowhere"])
def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(OptionError, match=f"on the device '{device}': torch cannot use it here"):
        ExactIndex(MemoryRows((1,), [torch.eye(3)]), device=device)


def test_another_width() -> None:
    with pytest.raises(BankMismatch, match="4-dimensional vectors among 3-dimensional rows"):
        ExactIndex(MemoryRows((1,), [torch.eye(3)])).search(torch.ones(1, 4), 1)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_queries_and_rows_that_are_not_finite(value: float) -> None:
    index = ExactIndex(MemoryRows((1,), [torch.eye(3)]))
    queries = torch.ones(9, 3)
    queries[4, 1] = value
    with pytest.raises(NonFiniteStates, match="query 4 holds NaN or infinity"):
        index.search(queries, 1)
    queries[2:] = value
    with pytest.raises(NonFiniteStates, match=r"each of 7 queries \(2, 3, 4, 5, 6, …\)"):
        index.search(queries, 1)
    for dtype in (torch.float16, torch.float32, torch.float64):
        rows = torch.ones(9, 3, dtype=dtype)
        rows[7, 2] = value
        with pytest.raises(NonFiniteStates, match="row 7 at layer 1"):
            ExactIndex(MemoryRows((1,), [rows]), block_rows=4).search(torch.ones(1, 3), 1)


def test_a_query_of_zeros() -> None:
    with pytest.raises(OptionError, match="query 1 is zero"):
        ExactIndex(MemoryRows((1,), [torch.eye(3)])).search(torch.tensor([[1.0, 0, 0], [0, 0, 0]]), 1)


def test_rows_of_zeros_are_similar_to_nothing() -> None:
    rows = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    matches = ExactIndex(MemoryRows((1,), [rows])).search(torch.tensor([[1.0, 0.0]]), 3)
    assert matches.rows.tolist() == [[2, 0, 1]]
    assert matches.similarities.tolist() == [[1.0, 0.0, -1.0]]
