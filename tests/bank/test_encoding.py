import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from patchlens.bank.encoding import DTYPES, Encoded, decode, empty, encode, row_bytes

EIGHT_BITS = ("int8", "float8_e4m3fn")


def directions(seed: int, rows: int, d_model: int, outlier: float) -> Tensor:
    """Unit rows, the entries of which differ in size by many orders of magnitude; one of them may be huge."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(rows, d_model, generator=generator, dtype=torch.float64)
    vectors *= 10.0 ** (3 * torch.rand(rows, d_model, generator=generator, dtype=torch.float64))
    vectors[:, seed % d_model] *= outlier
    return torch.nn.functional.normalize(vectors, dim=-1).float()


def stored_values(encoded: Encoded) -> Tensor:
    values = encoded.vectors.double()
    return values if encoded.scales is None else values * encoded.scales.double()[:, None]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(DTYPES)),
    st.integers(0, 2**32),
    st.integers(1, 5),
    st.integers(1, 300),
    st.sampled_from([0.0, 1.0, 1e6]),
)
def test_each_entry_and_each_row_errs_by_no_more_than_stated(
    dtype: str, seed: int, rows: int, d_model: int, outlier: float
) -> None:
    given, stored = directions(seed, rows, d_model, outlier if d_model > 1 else 1.0), DTYPES[dtype]
    encoded = encode(given, dtype)
    scales = torch.ones(rows) if encoded.scales is None else encoded.scales
    error = (stored_values(encoded) - given.double()).abs()
    # 1e-6: the scale and the quotient are themselves float32.
    assert torch.all(error <= (stored.relative + 1e-6) * given.abs() + (stored.absolute + 1e-4) * scales[:, None])
    bound = stored.error(d_model, encoded.scales).expand(rows)
    assert torch.all(error.norm(dim=-1) <= bound)
    if d_model > 1:  # in one dimension there are two directions, and none is lost
        assert float(bound.max()) < (0.1 if dtype == "float8_e4m3fn" else 0.07)
    unit = decode(encoded)
    assert unit.dtype == torch.float32
    assert torch.allclose(unit.norm(dim=-1), torch.ones(rows), atol=1e-6)
    # Projecting the stored row onto the sphere, on which the given one lies, at most doubles the distance.
    assert torch.all((unit - given).norm(dim=-1) <= 2 * bound)


@pytest.mark.parametrize("dtype", EIGHT_BITS)
def test_each_row_uses_the_whole_range(dtype: str) -> None:
    given = directions(0, 500, 96, 1.0)
    encoded = encode(given, dtype)
    assert torch.all(encoded.vectors.float().abs().amax(dim=-1) == DTYPES[dtype].largest)
    assert encoded.scales is not None
    assert torch.equal(encoded.scales, given.abs().amax(dim=-1) / DTYPES[dtype].largest)


@pytest.mark.parametrize("dtype", EIGHT_BITS)
def test_the_sign_and_zero_are_kept(dtype: str) -> None:
    given = directions(3, 50, 40, 1.0)
    given[:, ::3] = 0
    one, other = encode(given, dtype), encode(-given, dtype)
    assert torch.equal(stored_values(one), -stored_values(other))
    assert torch.all(stored_values(one)[:, ::3] == 0)


@pytest.mark.parametrize("dtype", EIGHT_BITS)
def test_encoding_twice_is_encoding_once(dtype: str) -> None:
    once = encode(directions(1, 200, 64, 1.0), dtype)
    assert torch.equal(encode(decode(once), dtype).vectors.float(), once.vectors.float())


def test_ties_go_to_even() -> None:
    """The scale is 1/127 here, so the entries are whole numbers and halves."""
    given = torch.tensor([[127.0, 0.5, 1.5, -2.5, 3.5]]) / 127
    assert encode(given, "int8").vectors.tolist() == [[127, 0, 2, -2, 4]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_a_row_takes(dtype: str) -> None:
    encoded = encode(directions(0, 7, 33, 1.0), dtype)
    scales = 0 if encoded.scales is None else encoded.scales.nbytes
    assert 7 * row_bytes(33, dtype) == encoded.vectors.nbytes + scales
    room = empty(7, 33, dtype)
    assert (room.vectors.shape, room.vectors.dtype) == (encoded.vectors.shape, encoded.vectors.dtype)
    assert (room.scales is None) == (encoded.scales is None)


def test_a_part_of_the_rows() -> None:
    encoded = encode(directions(0, 7, 8, 1.0), "int8")
    part = encoded[2:5]
    assert len(part) == 3
    assert part.scales is not None
    assert encoded.scales is not None
    assert torch.equal(part.vectors, encoded.vectors[2:5])
    assert torch.equal(part.scales, encoded.scales[2:5])
