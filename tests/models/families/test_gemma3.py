from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conformance.families import gemma3

from patchlens.capture.capture import request_of
from patchlens.models.hooks import observe
from patchlens.models.loading import Model, load_model
from patchlens.models.prepare import prepare

SIZES = [(32, 32), (40, 100), (103, 20), (45, 100), (300, 90), (130, 80), (60, 1000), (19, 100), (200, 170)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = tmp_path_factory.mktemp("gemma3")
    gemma3.build(folder)
    return load_model(folder)


@pytest.fixture
def without_crops(model: Model, monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setattr(model.processor.image_processor, "do_pan_and_scan", None)
    return model


def _noise(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(90, 160, (*size, 3), dtype=np.uint8)


def test_the_crops_are_those_of_the_image_processor(model: Model) -> None:
    counts = set()
    for size in SIZES:
        shown, *crops = model.adapter.tiles(model.config, model.processor, size, 1)
        prepared = prepare(model, [request_of(_noise(size), "What is it?")])
        assert len(prepared.inputs["pixel_values"]) == 1 + len(crops)
        assert shown.grid.region == (0.0, 0.0, *size)
        assert shown.role == ("thumbnail" if crops else "image")
        assert all(crop.role == "tile" for crop in crops)
        if crops:
            assert crops[-1].grid.region[2:] == size
        counts.add(len(crops))
    assert counts == {0, 2, 3, 4}


def test_the_words_between_the_crops_are_separators(model: Model) -> None:
    tokens = prepare(model, [request_of(_noise((40, 100)), "What is it?")]).sequences[0].tokens
    visual = torch.nonzero(tokens.visual)[:, 0]
    between = tokens.take(torch.arange(int(visual[0]), int(visual[-1]) + 1))
    assert bool((between.visual | between.having("separator")).all())
    assert int(between.having("separator").sum()) > 20  # English, and marks


def test_without_pan_and_scan_there_is_one_grid(without_crops: Model) -> None:
    for size in SIZES:
        prepared = prepare(without_crops, [request_of(_noise(size), "What is it?")])
        (tile,) = prepared.sequences[0].tokens.layout[0]
        assert (tile.role, tile.grid.region) == ("image", (0.0, 0.0, *size))
        assert len(prepared.inputs["pixel_values"]) == 1


def test_tokens_of_one_image_see_each_other(without_crops: Model) -> None:
    """With the last one out of its sight, the first visual token's state is another after one block."""
    prepared = prepare(without_crops, [request_of(_noise((32, 32)), "What is it?")])
    visual = torch.nonzero(prepared.sequences[0].tokens.visual)[:, 0]
    assert prepared.inputs["token_type_ids"][0].nonzero()[:, 0].tolist() == visual.tolist()

    def first_after_a_block(**inputs: torch.Tensor) -> torch.Tensor:
        seen: dict[int, torch.Tensor] = {}
        with torch.no_grad(), observe(without_crops.blocks, [1], seen.__setitem__, then_stop=True):
            without_crops.run(prepared.inputs | inputs)
        return seen[1][0, visual[0]]

    shorter = prepared.inputs["token_type_ids"].clone()
    shorter[0, visual[-1]] = 0  # a word now, which only those behind it see
    assert (first_after_a_block() - first_after_a_block(token_type_ids=shorter)).abs().max() > 1e-4


def test_a_size_is_laid_out_without_its_pixels(model: Model) -> None:
    """As many would not fit into any memory."""
    shown, *crops = model.adapter.tiles(model.config, model.processor, (4_000_000, 16_000_000), 1)
    assert shown.grid.region == (0.0, 0.0, 4e6, 16e6)
    assert crops[-1].grid.region[2:] == (4e6, 16e6)
