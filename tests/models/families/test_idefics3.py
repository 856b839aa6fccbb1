from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conformance.families import idefics3
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from patchlens.capture.capture import capture
from patchlens.models.families.idefics3 import split_tiles
from patchlens.models.loading import Model, load_model

SIZES = [(1, 1), (1, 300), (31, 33), (64, 64), (65, 64), (100, 99), (150, 299), (299, 150), (300, 7), (200, 131)]


@pytest.fixture
def model(tmp_path: Path) -> Model:
    idefics3.build(tmp_path)
    return load_model(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"longest_edge": 64}},
        {"size": {"longest_edge": 97}},
        {"size": {"longest_edge": 32}},
        {"size": {"height": 40, "width": 70}},
        {"size": {"longest_edge": 64}, "do_resize": False},
        {"size": {"longest_edge": 64}, "do_image_splitting": False},
    ],
)
def test_the_tiles_are_those_of_the_image_processor(settings: dict) -> None:
    image_processor = Idefics3ImageProcessorPil(**settings, max_image_size={"longest_edge": 32})
    config = SimpleNamespace(vision_config=SimpleNamespace(patch_size=8), scale_factor=2)
    for size in SIZES:
        made = image_processor([[Image.new("RGB", size[::-1])]], return_row_col_info=True)
        rows, columns = made["rows"][0][0], made["cols"][0][0]
        tiles = split_tiles(config, image_processor, size)
        assert len(tiles) == rows * columns + 1
        assert [tile.place for tile in tiles[:-1]] == [(r, c) for r in range(rows) for c in range(columns)]
        assert tiles[-1].role == ("thumbnail" if rows else "image")
        assert tiles[-1].grid.region == (0.0, 0.0, *size)


def test_without_splitting_there_is_the_image_alone(model: Model) -> None:
    model.processor.image_processor.do_image_splitting = False
    states = capture(model, np.zeros((60, 90, 3), np.uint8), layers=0)
    assert len(states) == 4
    assert [tile.role for tile in states.tokens.layout[0]] == ["image"]


def test_what_is_left_over_beside_the_last_patch_is_in_no_grid(model: Model) -> None:
    """Tiles of 36 pixels hold four patches of 8 a side; the last 4 pixels enter the thumbnail alone."""
    model.processor.image_processor.max_image_size = {"longest_edge": 36}
    model.processor.image_processor.size = {"longest_edge": 72}
    pixels = np.random.default_rng(0).integers(90, 160, (72, 72, 3), dtype=np.uint8)
    left_over, last = pixels.copy(), pixels.copy()
    left_over[:36, 32:36] = 0
    last[:36, 31] = 0
    before = capture(model, pixels, layers=0)
    assert before.tokens.layout[0][1].grid.region == (0.0, 36.0, 32.0, 68.0)
    first, thumbnail = before.tokens.tiles == 0, before.tokens.tiles == 4
    unmoved, moved = capture(model, left_over, layers=0), capture(model, last, layers=0)
    assert torch.equal(unmoved.at(0)[first], before.at(0)[first])
    assert not torch.equal(unmoved.at(0)[thumbnail], before.at(0)[thumbnail])
    assert not torch.equal(moved.at(0)[first], before.at(0)[first])


def test_a_size_is_laid_out_without_its_pixels(model: Model) -> None:
    """As many would not fit into any memory."""
    tiles = model.adapter.tiles(model.config, model.processor, (8_000_000, 16_000_000), 1)
    assert [tile.place for tile in tiles[:-1]] == [(0, 0), (0, 1)]
    assert tiles[-1].grid.region == (0.0, 0.0, 8e6, 16e6)
