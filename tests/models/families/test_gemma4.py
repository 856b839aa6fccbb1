from pathlib import Path

import numpy as np
import pytest
from tests.conformance.families import gemma4

from patchlens.capture.capture import capture, request_of
from patchlens.errors import ImageError, ModelIncomplete
from patchlens.models.loading import Model, load_model
from patchlens.models.prepare import prepare

SIZES = [(64, 64), (50, 120), (4, 200), (200, 4), (199, 171), (8, 8)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = tmp_path_factory.mktemp("gemma4")
    gemma4.build(folder)
    return load_model(folder)


def test_the_grid_is_that_of_the_patches(model: Model) -> None:
    for size in SIZES:
        prepared = prepare(model, [request_of(np.zeros((*size, 3), np.uint8), "What is it?")])
        (tile,) = prepared.sequences[0].tokens.layout[0]
        columns, rows = (prepared.inputs["image_position_ids"][0].max(dim=0).values + 1).tolist()
        assert (tile.grid.rows, tile.grid.columns) == (rows // 2, columns // 2)


def test_an_image_that_is_not_whole_cells_must_be_resized(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.processor.image_processor, "do_resize", False)
    (tile,) = model.adapter.tiles(model.config, model.processor, (24, 40), 1)
    assert (tile.grid.rows, tile.grid.columns) == (3, 5)
    prepare(model, [request_of(np.zeros((24, 40, 3), np.uint8), "What is it?")])
    with pytest.raises(ModelIncomplete, match="whole cells"):
        model.adapter.tiles(model.config, model.processor, (24, 42), 1)


@pytest.mark.parametrize("size", [(3000, 20), (20, 3000), (3, 200)])
def test_an_image_beyond_the_positions_of_the_encoder_is_refused(model: Model, size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match=rf"{size[0]} × {size[1]} pixels.*at most 128 along a side.*crop it"):
        capture(model, np.zeros((*size, 3), np.uint8), layers=0)


def test_an_image_of_all_positions_of_the_encoder_is_taken(model: Model) -> None:
    """Its patches along a side are as many as the table has rows; with one row less it is refused."""
    vision = model.config.vision_config
    (tile,) = model.adapter.tiles(model.config, model.processor, (16, 944), 1) or ()
    assert tile.grid.columns * model.config.vision_config.pooling_kernel_size == vision.position_embedding_size
    assert len(capture(model, np.zeros((16, 944, 3), np.uint8), layers=0)) == len(tile.grid)
    with pytest.raises(ImageError, match="130 patches"):
        model.adapter.tiles(model.config, model.processor, (16, 968), 1)
