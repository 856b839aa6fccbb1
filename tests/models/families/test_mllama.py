from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conformance.families import mllama

from patchlens.capture.capture import capture, request_of
from patchlens.errors import OptionError
from patchlens.models.hooks import watch
from patchlens.models.loading import Model, load_model
from patchlens.models.prepare import prepare
from patchlens.models.survey import survey

SIZES = [(32, 32), (40, 120), (64, 64), (300, 200)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = tmp_path_factory.mktemp("mllama")
    mllama.build(folder)
    return load_model(folder)


def _noise(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(90, 160, (*size, 3), dtype=np.uint8)


@pytest.mark.parametrize("sizes", [*[[size] for size in SIZES], [(40, 120), (32, 32)]])
def test_the_map_has_the_rows_and_the_tiles_of_the_model(model: Model, sizes: list[tuple[int, int]]) -> None:
    request = request_of([_noise(size) for size in sizes], "What is it?")
    prepared = prepare(model, [request])
    rows: list[torch.Tensor] = []
    projector = model.adapter.visual_module(model.network)
    with torch.no_grad(), watch(projector, lambda _, output: rows.append(output)):
        model.run(prepared.inputs)
    tokens = model.adapter.visual_map(model.config, model.processor, request)
    assert len(tokens) == rows[0][..., 0].numel()
    real = tokens.visual.reshape(len(sizes), 4, 17)
    assert not real[..., 0].any()  # class tokens
    assert torch.equal(real[..., 1], prepared.inputs["aspect_ratio_mask"][0].bool())
    assert torch.equal(real[..., 1:].all(-1), real[..., 1])
    assert tokens.sources.tolist() == [image for image in range(len(sizes)) for _ in range(4 * 17)]
    assert [len(tiles) for tiles in tokens.layout] == prepared.inputs["aspect_ratio_mask"][0].sum(-1).tolist()


def test_one_image_token_per_image_stands_in_the_sequence(model: Model) -> None:
    states = capture(model, [_noise((32, 32)), _noise((40, 120))], "Which?", positions="all")
    fillers = states.tokens.having("filler")
    assert states.tokens.sources[fillers].tolist() == [0, 1]
    assert not states.tokens.visual.any()


@pytest.mark.parametrize("size", SIZES)
def test_an_image_fills_the_upper_left_of_its_canvas(model: Model, size: tuple[int, int]) -> None:
    """Within the whole pixels that resizing rounds to, one side of the image is a side of the canvas."""
    tiles = model.adapter.tiles(model.config, model.processor, size, 1)
    bottom, right = (max(tile.grid.region[side] for tile in tiles) for side in (2, 3))
    assert min(tile.grid.region[0] for tile in tiles) == min(tile.grid.region[1] for tile in tiles) == 0
    assert min(bottom / size[0], right / size[1]) == pytest.approx(1)


def test_visual_states_have_layer_0_alone(model: Model) -> None:
    assert capture(model, _noise((32, 32)), layers="all").layers == (0,)
    with pytest.raises(OptionError, match="beside the sequence"):
        capture(model, _noise((32, 32)), layers=1)


def test_the_text_sees_the_image_only_from_the_cross_attention_block_on(model: Model) -> None:
    dark, bright = (capture(model, _noise((32, 32)) // by, "What is it?", positions="all") for by in (4, 1))
    moved = [(dark.at(layer) - bright.at(layer)).abs().max() for layer in range(model.n_layers + 1)]
    assert [bool(each > 0) for each in moved] == [False, False, True, True]


def test_without_an_image_the_cross_attention_block_is_skipped(model: Model) -> None:
    states = capture(model, prompt="What is it?", positions="all")
    assert torch.equal(states.at(2), states.at(1))
    assert not torch.equal(states.at(3), states.at(2))


def test_a_raw_prompt_has_one_begin_of_text_behind_the_image(model: Model) -> None:
    states = capture(model, _noise((32, 32)), "What is it?", positions="all", raw=True)
    image, begin = model.config.image_token_id, model.tokenizer.bos_token_id
    assert states.token_ids[:2].tolist() == [image, begin]
    assert int((states.token_ids == begin).sum()) == 1


def test_visual_tokens_are_not_mixed_with_the_sequence(tmp_path: Path) -> None:
    from tests.conformance.families.mllama import build

    build(tmp_path)
    model = load_model(tmp_path)
    picture = np.zeros((40, 60, 3), np.uint8)
    with pytest.raises(OptionError, match="captured together with answer tokens"):
        capture(model, picture, positions="visual,answer", answer=2)
    survey_cost = survey(str(tmp_path), sizes=[(40, 60)]).images[0].capture_bytes
    assert survey_cost == capture(model, picture).vectors.nbytes
