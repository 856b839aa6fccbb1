import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchlens.errors import OptionError
from patchlens.models.patch_grid import PatchGrid

CROPPED = PatchGrid(rows=2, columns=4, image_size=(100, 300), region=(0.0, 50.0, 100.0, 250.0))

grids = st.builds(
    lambda rows, columns, top, left, height, width: PatchGrid(
        rows, columns, (64, 96), (top, left, top + height, left + width)
    ),
    st.integers(1, 30),
    st.integers(1, 30),
    st.floats(-500, 500),
    st.floats(-500, 500),
    st.floats(1, 5000),
    st.floats(1, 5000),
)


@given(grids)
def test_every_cell_contains_its_own_middle_and_boxes_tile_the_region(grid: PatchGrid) -> None:
    assert len(grid) == grid.rows * grid.columns
    for index in range(len(grid)):
        row, column = grid.at(index)
        assert grid.index(row, column) == index
        top, left, bottom, right = grid.box(row, column)
        assert grid.locate((top + bottom) / 2, (left + right) / 2) == (row, column)
    assert grid.box(0, 0)[:2] == pytest.approx(grid.region[:2])
    assert grid.box(grid.rows - 1, grid.columns - 1)[2:] == pytest.approx(grid.region[2:])


def test_order_is_row_then_column() -> None:
    assert CROPPED.index(1, 0) == 4
    assert CROPPED.at(5) == (1, 1)
    assert CROPPED.box(1, 3) == (50.0, 200.0, 100.0, 250.0)


@pytest.mark.parametrize(
    ("point", "cell"),
    [
        ((0.0, 50.0), (0, 0)),
        ((99.9, 249.9), (1, 3)),
        ((50.0, 100.0), (1, 1)),
        ((50.0, 49.9), None),
        ((100.0, 60.0), None),
        ((5.0, 250.0), None),
    ],
)
def test_locating_points(point: tuple[float, float], cell: tuple[int, int] | None) -> None:
    assert CROPPED.locate(*point) == cell


@pytest.mark.parametrize(("row", "column"), [(2, 0), (0, 4), (-1, 0), (0, -1)])
def test_no_such_cell(row: int, column: int) -> None:
    with pytest.raises(OptionError, match="rows 0 to 1 and columns 0 to 3"):
        CROPPED.box(row, column)


@pytest.mark.parametrize("index", [-1, 8])
def test_no_such_index(index: int) -> None:
    with pytest.raises(OptionError, match="0 to 7"):
        CROPPED.at(index)


def test_json_round_trip() -> None:
    assert PatchGrid.from_json(json.loads(json.dumps(CROPPED.to_json()))) == CROPPED


@pytest.mark.parametrize(
    "fields", [{}, {"rows": "x"}, CROPPED.to_json() | {"region": [1, 2]}, CROPPED.to_json() | {"rows": None}]
)
def test_json_of_something_else(fields: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="Cannot read a patch grid"):
        PatchGrid.from_json(fields)


def test_an_empty_grid_is_refused() -> None:
    with pytest.raises(OptionError, match="empty"):
        PatchGrid(0, 4, (10, 10), (0.0, 0.0, 10.0, 10.0))


def test_pixels_past_the_last_whole_patch_are_left_out() -> None:
    """SigLIP at 384 pixels with patches of 14: 27 × 27 patches cover 378."""
    grid = PatchGrid.of_patches((768, 384), (0.0, 0.0, 768.0, 384.0), (384, 384), 14)
    assert (grid.rows, grid.columns) == (27, 27)
    assert grid.region == pytest.approx((0, 0, 756, 378))
