from pathlib import Path

import numpy as np
import pytest
from tests.conformance.families import gemma4

from patchlens.capture.capture import request_of
from patchlens.errors import ModelIncomplete
from patchlens.models.loading import Model, load_model
from patchlens.models.prepare import prepare

SIZES = [(64, 64), (50, 120), (3, 200), (200, 3), (199, 171), (8, 8)]


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
