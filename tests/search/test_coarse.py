import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from patchlens.bank.encoding import encode
from patchlens.search import coarse
from patchlens.search.coarse import (
    ARITHMETICS,
    INT8,
    Arithmetic,
    ladder,
    lengths_of,
    make_buffers,
    prepare_queries,
    prepare_rows,
    product,
)
from patchlens.search.score import directions

CPU = torch.device("cpu")
STORED = ("float16", "bfloat16", "float32", "int8", "float8_e4m3fn")


def off(units: Tensor, block: Tensor, arithmetic: Arithmetic) -> tuple[Tensor, Tensor]:
    """How far coarse similarities are from the exact ones, and how far they may be."""
    queries = prepare_queries(units, arithmetic, CPU)
    buffer, out = make_buffers(arithmetic, CPU, len(block), len(units), block.shape[1])
    found, error, fraction = product(
        prepare_rows(block, lengths_of(block), arithmetic, buffer), queries, arithmetic, out
    )
    found = found.double()
    return (found - directions(block) @ units.T).abs(), error + fraction * found.abs()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from((1, 3, 64, 1000)),
    st.sampled_from(STORED),
    st.sampled_from((INT8, *ARITHMETICS)),
    st.booleans(),
    st.booleans(),
)
def test_the_error_stays_within_the_bound(
    seed: int, d_model: int, stored: str, arithmetic: Arithmetic, one_sign: bool, unit: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand if one_sign else torch.randn  # of one sign, errors do not cancel
    units = directions(draw(20, d_model, generator=generator) + 1e-3)
    rows = directions(draw(50, d_model, generator=generator) + 1e-3).float()
    rows[:, 0] *= 30 if seed % 2 else 1  # one dimension that dominates
    rows = torch.nn.functional.normalize(rows, dim=1)
    block = encode(rows, stored).vectors if unit else (rows * 100).to(torch.float32)
    found, bound = off(units, block, arithmetic)
    assert (found <= bound).all()


def test_rows_that_bfloat16_holds_are_not_rounded() -> None:
    torch.manual_seed(0)
    units = directions(torch.randn(30, 256))
    rows = torch.nn.functional.normalize(torch.randn(80, 256), dim=1)
    wide = off(units, encode(rows, "float16").vectors, ARITHMETICS[0])[1].mean()
    for stored in ("bfloat16",):
        assert off(units, encode(rows, stored).vectors, ARITHMETICS[0])[1].mean() < 0.75 * wide


def test_bfloat16_only_where_it_is_fast_and_true(monkeypatch: pytest.MonkeyPatch) -> None:
    rough, single, double = ARITHMETICS
    times = {INT8: 0.5, rough: 1.0, single: 3.0}
    monkeypatch.setattr(coarse, "_seconds", lambda arithmetic, device: times[arithmetic])
    ladder.cache_clear()
    assert ladder("cpu", torch.float16) == (rough, single, double)
    assert ladder("cpu", torch.int8) == (INT8, rough, single, double)
    ladder.cache_clear()
    times[rough] = 2.5
    assert ladder("cpu", torch.float16) == (single, double)
    assert ladder("cpu", torch.int8) == (INT8, single, double)
    times[rough] = 1.0
    ladder.cache_clear()
    real = product
    monkeypatch.setattr(coarse, "product", lambda *arguments: (real(*arguments)[0] * 1.05, *real(*arguments)[1:]))
    assert ladder("cpu", torch.int8) == (single, double), "a product that is off by 5 % is not used"
    ladder.cache_clear()
