"""The stitched grid, measured: an image whose colours are its coordinates goes through the library's own steps."""

from types import MethodType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

from patchlens.errors import ModelIncomplete
from patchlens.models.anyres import anyres_tiles, square_tile

PATCH = 8
NEWLINE = -1.0


def _processor(side: int, **settings: Any) -> Any:
    """The real one, but it resizes floats, which have no steps, and antialiases by averaging."""

    def resize(_: Any, image: np.ndarray, size: Any, resample: Any = None) -> np.ndarray:
        wanted = size.width, size.height
        return np.stack(
            [np.asarray(Image.fromarray(plane).resize(wanted, Image.Resampling.BILINEAR)) for plane in image]
        )

    canvases = [[side * rows, side * columns] for rows in (1, 2, 3, 4) for columns in (1, 2, 3, 4)]
    settings = {"size": {"height": side, "width": side}, "image_grid_pinpoints": canvases, **settings}
    made = LlavaOnevisionImageProcessorPil(do_rescale=False, do_normalize=False, image_mean=[0.0, 0.0, 0.0], **settings)
    made.resize = MethodType(resize, made)
    made.process_image = lambda image, **_: image
    return SimpleNamespace(image_processor=made)


def _config(side: int, processor: Any) -> Any:
    vision = SimpleNamespace(image_size=side, patch_size=PATCH)
    return SimpleNamespace(vision_config=vision, image_grid_pinpoints=processor.image_processor.image_grid_pinpoints)


def _coordinates(size: tuple[int, int]) -> np.ndarray:
    """Row, column, and one where there is an image at all; of each pixel's middle."""
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.float32) + 0.5
    return np.stack([rows, columns, np.ones_like(rows)])


def _measured(side: int, processor: Any, size: tuple[int, int], images: int, most: int = 9) -> Tensor:
    """What each token of the first image averages over, newlines too."""
    made = processor.image_processor([[_coordinates(size)] * images], return_tensors="pt")
    pixels = made["pixel_values"][0]
    patches = pixels.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).mean((-1, -2))
    packed, _ = LlavaOnevisionModel.pack_image_features(
        SimpleNamespace(config=_config(side, processor)),
        [patches.flatten(2).transpose(1, 2)],
        made["image_sizes"],
        image_newline=torch.full((3,), NEWLINE),
        vision_aspect_ratio=f"anyres_max_{most}",
    )
    return packed[0]


def _compare(tiles: Any, measured: Tensor, size: tuple[int, int], tolerance: float) -> int:
    """Each cell's middle is what its token averages over, in shares of a cell; padded ones and the rim are left out."""
    compared = 0
    places = [(tile, cell) for tile in tiles for cell in tile.cells()]
    assert len(places) == len(measured)
    for (tile, cell), (row, column, shown) in zip(places, measured.tolist(), strict=True):
        assert (cell < 0) == (shown == NEWLINE)
        if cell < 0 or shown < 0.999 or not (2 < row < size[0] - 2 and 2 < column < size[1] - 2):
            continue  # enlarging repeats the outermost pixels
        top, left, bottom, right = tile.grid.box(*tile.grid.at(cell))
        assert (top + bottom) / 2 == pytest.approx(row, abs=tolerance * (bottom - top) + 0.01), (size, tile, cell)
        assert (left + right) / 2 == pytest.approx(column, abs=tolerance * (right - left) + 0.01), (size, tile, cell)
        compared += 1
    return compared


sides = st.integers(2, 400)


@given(size=st.tuples(sides, sides))
@example(size=(50, 130))
@example(size=(10, 600))
@example(size=(600, 10))
@example(size=(400, 390))
def test_the_stitched_grid_lies_where_its_tokens_come_from(size: tuple[int, int]) -> None:
    processor = _processor(32)
    tiles = anyres_tiles(_config(32, processor), processor, size, most=9)
    _compare(tiles, _measured(32, processor, size, 1), size, 0.01)


@given(size=st.tuples(sides, sides))
@example(size=(400, 390))
def test_with_gaps_between_the_tiles_it_is_off_by_half_a_gap_at_most(size: tuple[int, int]) -> None:
    processor = _processor(35)  # 4 patches of 8, and 3 pixels that no patch sees
    tiles = anyres_tiles(_config(35, processor), processor, size, most=9)
    _compare(tiles, _measured(35, processor, size, 1), size, 1.5 / 8.75 + 0.01)


@given(size=st.tuples(sides, sides))
@example(size=(51, 130))
@example(size=(131, 50))
def test_a_square_lies_where_its_tokens_come_from(size: tuple[int, int]) -> None:
    processor = _processor(35)
    _compare([square_tile(_config(35, processor), processor, size)], _measured(35, processor, size, 2), size, 0.01)


def test_the_comparison_can_fail() -> None:
    processor, size = _processor(32), (100, 90)
    config = _config(32, processor)
    measured = _measured(32, processor, size, 1)
    assert _compare(anyres_tiles(config, processor, size, most=9), measured, size, 0.01) > 20
    with pytest.raises(AssertionError):
        _compare(anyres_tiles(config, processor, (90, 100), most=9), measured, size, 0.01)


def test_it_is_shrunk_only_above_the_limit() -> None:
    processor, size = _processor(32), (128, 128)
    config = _config(32, processor)
    grids = [anyres_tiles(config, processor, size, most=most)[1].grid for most in (None, 16, 9, 4)]
    assert [(grid.rows, grid.columns) for grid in grids] == [(16, 16), (16, 16), (12, 12), (8, 8)]
    assert {grid.region for grid in grids} == {(0.0, 0.0, 128.0, 128.0)}


def test_a_crop_of_the_tiles_is_taken_into_account() -> None:
    """Tiles of 32 pixels are enlarged to 40 and their centre is shown: the same share of the thumbnail too."""
    canvases = [[32, 64], [64, 32]]
    settings = {"do_center_crop": True, "crop_size": {"height": 32, "width": 32}, "image_grid_pinpoints": canvases}
    processor = _processor(40, **settings)
    thumbnail, stitched = anyres_tiles(_config(32, processor), processor, (32, 64))
    assert thumbnail.grid.region == pytest.approx((3.2, 6.4, 28.8, 57.6))
    assert stitched.grid.region == pytest.approx((0.0, 0.0, 32.0, 64.0))


def test_where_all_is_taken_for_padding_the_thumbnail_is_left() -> None:
    processor = _processor(32, image_grid_pinpoints=[[64, 32], [32, 64]])
    config = _config(32, processor)
    (wide,) = anyres_tiles(config, processor, (2, 300))
    (tall,) = anyres_tiles(config, processor, (300, 2))
    assert (wide.role, wide.after, tall.role, tall.after) == ("image", 0, "image", 8)


def test_tiles_that_do_not_fill_a_canvas_are_refused() -> None:
    processor = _processor(32, image_grid_pinpoints=[[64, 40]])
    with pytest.raises(ModelIncomplete, match="64 × 40"):
        anyres_tiles(_config(32, processor), processor, (100, 100))
