from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from patchlens.errors import OptionError
from patchlens.evaluation.region import Region, sample_region
from patchlens.inputs.image import ImageInput, open_image
from patchlens.models.patch_grid import PatchGrid
from patchlens.models.tile import Tile


def image(height: int = 60, width: int = 90, shade: int = 0) -> ImageInput:
    return open_image(Image.new("RGB", (width, height), (shade % 256, shade // 256, 7)))


def grid(rows: int, columns: int, region: tuple[float, float, float, float] = (0.0, 0.0, 60.0, 90.0)) -> Tile:
    return Tile(PatchGrid(rows, columns, image_size=(60, 90), region=region))


def test_the_box_covers_its_nine_cells() -> None:
    tile = grid(6, 9)
    region = Region.around("image", [tile], 0, 2, 4)
    assert region.box == (10.0, 30.0, 40.0, 60.0)
    assert region.cells == ((1, 3), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5), (3, 3), (3, 4), (3, 5))
    boxes = [tile.grid.box(*cell) for cell in region.cells]
    tops, lefts, bottoms, rights = zip(*boxes, strict=True)
    assert region.box == (min(tops), min(lefts), max(bottoms), max(rights))
    assert Region.from_json(region.to_json()) == region


def test_every_region_is_as_likely_as_any_other() -> None:
    drawn = [sample_region(image(shade=shade), [grid(5, 4)]) for shade in range(3000)]
    middles = Counter((region.row, region.column) for region in drawn if region)
    assert set(middles) == {(row, column) for row in (1, 2, 3) for column in (1, 2)}
    assert all(400 < count < 600 for count in middles.values())  # 500 expected, standard deviation 20


def test_the_draw_depends_on_seed_and_pixels_alone() -> None:
    tiles = [grid(20, 20)]
    first = sample_region(image(), tiles)
    renamed = open_image(image().pixels, name="another name")
    again = sample_region(renamed, tiles)
    assert first is not None
    assert again is not None
    assert (again.row, again.column) == (first.row, first.column)
    others = {sample_region(image(), tiles, seed=seed) for seed in range(20)}
    assert len(others) > 10


@given(st.integers(1, 9), st.integers(1, 9), st.floats(-40, 40), st.floats(-40, 40), st.integers(0, 5))
def test_a_region_lies_in_real_pixels_or_there_is_none(
    rows: int, columns: int, top: float, left: float, seed: int
) -> None:
    tile = grid(rows, columns, (top, left, top + 70.0, left + 100.0))
    boxes = [
        Region.around("image", [tile], 0, row, column).box
        for row in range(1, rows - 1)
        for column in range(1, columns - 1)
    ]
    inside = [box for box in boxes if min(box[:2]) >= -0.01 and box[2] <= 60.01 and box[3] <= 90.01]
    region = sample_region(image(), [tile], seed=seed)
    assert (region is None) == (not inside)
    assert region is None or region.box in inside


def test_tiles_take_part_and_small_ones_do_not() -> None:
    small, large = grid(2, 9), grid(4, 4, (30.0, 0.0, 60.0, 45.0))
    region = sample_region(image(), [small, large])
    assert region is not None
    assert region.tile == 1
    assert sample_region(image(), [small]) is None
    assert sample_region(image(), []) is None


def test_another_reach() -> None:
    region = sample_region(image(), [grid(2, 2)], reach=0)
    assert region is not None
    assert len(region.cells) == 1
    with pytest.raises(OptionError, match="0 or more"):
        sample_region(image(), [grid(2, 2)], reach=-1)
