"""Families with an `image_grid_thw` and the model types of their layout, beyond what every family must hold."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conformance.test_families import _noise, _quiet

from patchlens.capture.capture import capture, request_of
from patchlens.errors import ImageError, ModelIncomplete
from patchlens.models.loading import Model, load_model
from patchlens.models.prepare import prepare

VARIANTS = {
    "qwen2_vl": "qwen2_vl.build",
    "qwen2_5_vl": "qwen2_5_vl.build",
    "qwen3_vl": "qwen3_vl.build",
    "qwen3_vl_moe": "qwen3_vl.build_moe",
    "qwen3_5": "qwen3_5.build",
    "qwen3_5_moe": "qwen3_5.build_moe",
    "glm4v": "glm4v.build",
    "glm4v_moe": "glm4v.build_moe",
    "glm46v": "glm4v.build_46v",
    "glm_ocr": "glm4v.build_ocr",
}
"""How to build a tiny model of each type."""


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    made: dict[str, Path] = {}

    def load(model_type: str) -> Model:
        if model_type not in made:
            family, build = VARIANTS[model_type].split(".")
            made[model_type] = tmp_path_factory.mktemp(model_type)
            getattr(import_module(f"tests.conformance.families.{family}"), build)(made[model_type])
        return load_model(made[model_type])

    return load


@pytest.mark.parametrize("model_type", VARIANTS)
def test_a_token_is_made_of_its_own_cell_alone(load: Callable[[str], Model], model_type: str) -> None:
    """In an image that needs no resizing, no other token moves at all."""
    model = load(model_type)
    assert model.config.model_type == model_type
    assert model.adapter.family == VARIANTS[model_type].split(".")[0]
    cell = model.config.vision_config.patch_size * model.config.vision_config.spatial_merge_size
    pixels = _noise((3 * cell, 5 * cell))
    with _quiet(model.network, import_module(f"tests.conformance.families.{model.adapter.family}")):
        before = capture(model, pixels, layers=0)
        assert [len(tile.grid) for tile in before.tokens.layout[0]] == [15]
        for token in range(15):
            top, left, bottom, right = (int(side) for side in before.tokens.box(token))
            changed = pixels.copy()
            changed[top:bottom, left:right] = (255, 0, 255)
            moved = (capture(model, changed, layers=0).at(0) - before.at(0)).norm(dim=1)
            assert torch.nonzero(moved > 1e-5 * before.at(0).norm(dim=1)).flatten().tolist() == [token]


@pytest.mark.parametrize("model_type", ["qwen2_vl", "glm4v"])
@pytest.mark.parametrize("limits", [(1, 10**8), (4096, 8192), (50_000, 60_000)])
def test_the_grid_is_the_processors(load: Callable[[str], Model], model_type: str, limits: tuple[int, int]) -> None:
    """`image_grid_thw` for images of all shapes, under several limits."""
    model = load(model_type)
    settings = model.processor.image_processor
    settings.size = {"shortest_edge": limits[0], "longest_edge": limits[1]}
    sizes = np.random.default_rng(0).integers(5, 300, (20, 2)).tolist()
    for height, width in [*sizes, (4, 399), (150, 2)]:
        made = settings(_noise((height, width)), return_tensors="pt", input_data_format="channels_last")
        (tile,) = model.adapter.tiles(model.config, model.processor, (height, width), 1) or ()
        assert [1, 2 * tile.grid.rows, 2 * tile.grid.columns] == made["image_grid_thw"][0].tolist()
        assert tile.grid.region == (0, 0, height, width)


@pytest.mark.parametrize("model_type", ["qwen3_vl", "glm4v"])
def test_without_resizing(load: Callable[[str], Model], model_type: str) -> None:
    model = load(model_type)
    model.processor.image_processor.do_resize = False
    (sequence,) = prepare(model, [request_of(_noise((160, 16)), "What is it?")]).sequences
    cell = 2 * model.config.vision_config.patch_size
    assert [(tile.grid.rows, tile.grid.columns) for tile in sequence.tokens.layout[0]] == [(160 // cell, 16 // cell)]


@pytest.mark.parametrize("model_type", ["qwen2_5_vl", "glm4v"])
def test_an_image_like_a_thread_is_refused(load: Callable[[str], Model], model_type: str) -> None:
    model = load(model_type)
    with pytest.raises(ImageError, match=r"2 × 500 pixels.*aspect ratio"):
        prepare(model, [request_of(_noise((2, 500)), "What is it?")])


def test_a_processor_of_another_model_is_noticed(load: Callable[[str], Model]) -> None:
    model = load("qwen3_vl")
    model.processor.image_processor.merge_size = 4
    with pytest.raises(ModelIncomplete, match=r"made 4 visual tokens, but .* say 16 .*4 × 4"):
        prepare(model, [request_of(_noise((32, 32)), "What is it?")])


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v"])
def test_a_raw_prompt_has_the_marks_of_the_chat_template(load: Callable[[str], Model], model_type: str) -> None:
    """Read back from the template, which the tiny models write as the real ones do."""
    model = load(model_type)
    pixels = _noise((64, 64))
    raw, chat = (prepare(model, [request_of([pixels] * 2, "What?", raw=raw)]).sequences[0] for raw in (True, False))
    spoken = model.tokenizer.decode(chat.token_ids).split("user: ")[1]
    assert spoken.startswith(model.tokenizer.decode(raw.token_ids).removeprefix("<s>"))
    # Each image keeps the marks on its own sides.
    for sequence in (raw, chat):
        for source in range(2):
            kinds = sequence.tokens.having("separator")[sequence.tokens.sources == source].tolist()
            assert kinds == [True] + [False] * (len(kinds) - 2) + [True]


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen3_5", "glm4v"])
def test_an_answer_counts_as_text(load: Callable[[str], Model], model_type: str) -> None:
    """The states of a given answer are those of the whole sequence, in which it has text's positions."""
    model = load(model_type)
    prepared = prepare(model, [request_of(_noise((64, 64)), "What is it?")])
    answer = torch.tensor([model.tokenizer(" A cat", add_special_tokens=False)["input_ids"]])
    longer = model.adapter.continued(prepared.inputs, answer)
    kinds = longer["mm_token_type_ids"][0]
    assert len(kinds) == len(longer["input_ids"][0])
    assert torch.equal(kinds == 1, longer["input_ids"][0] == model.config.image_token_id)
    assert set(kinds.tolist()) == {0, 1}


def test_deepstack_comes_after_the_layer_it_follows(load: Callable[[str], Model]) -> None:
    """What the second block gets is layer 1 and DeepStack's features: at visual tokens more, at text the same."""
    model = load("qwen3_vl")
    given = []
    handle = model.blocks[1].register_forward_pre_hook(lambda _, args: given.append(args[0][0].clone()))
    prepared = prepare(model, [request_of(_noise((32, 32)), "What is it?")])
    try:
        model.run(prepared.inputs)
    finally:
        handle.remove()
    states = capture(model, _noise((32, 32)), "What is it?", layers=1, positions="all")
    added = (given[0] - states.at(1)).norm(dim=1) > 1e-4
    assert torch.equal(added, states.tokens.visual)
