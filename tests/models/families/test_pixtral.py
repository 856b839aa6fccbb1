"""LLaVA with Pixtral's encoder, which has LLaVA's model type: one token per patch, in the image's own shape."""

from pathlib import Path

import pytest
import torch
from tests.conformance import test_families as conformance
from tests.conformance.tiny import TEXT, VISION, save, template, tokenizer

from patchlens.capture.capture import capture, capture_batch, request_of
from patchlens.errors import ModelIncomplete
from patchlens.models.loading import Model, load_model
from patchlens.models.prepare import prepare

PATCH, LONGEST = 8, 64


class Tiny:
    SIZES = ((64, 64), (24, 70), (130, 50), (5, 9), (200, 333), (41, 64))


def build(folder: Path, **settings: object) -> None:
    from transformers import LlavaConfig, LlavaForConditionalGeneration, MistralConfig, PixtralVisionConfig
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    from patchlens.models.without_torchvision import processor_class

    words = tokenizer(["[IMG]", "[IMG_BREAK]", "[IMG_END]"])
    config = LlavaConfig(
        vision_config=PixtralVisionConfig(**VISION, image_size=LONGEST, patch_size=PATCH),
        text_config=MistralConfig(**TEXT, vocab_size=len(words)),
        image_token_index=words.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    given = {"size": {"longest_edge": LONGEST}, "patch_size": {"height": PATCH, "width": PATCH}} | settings
    processor = processor_class("PixtralProcessor")(
        PixtralImageProcessorPil(**given), words, patch_size=PATCH, chat_template=template("[IMG]")
    )
    torch.manual_seed(0)
    save(folder, LlavaForConditionalGeneration(config), processor)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("pixtral")
    build(folder)
    return load_model(folder)


def test_it_is_served_by_llava(model: Model) -> None:
    assert model.adapter.family == "llava"


@pytest.mark.parametrize(
    "test",
    [
        conformance.test_the_tokens_of_every_size,
        conformance.test_positions_are_those_that_the_model_fills,
        conformance.test_geometry_by_experiment,
        conformance.test_alone_as_in_a_batch,
        conformance.test_several_images,
    ],
    ids=lambda test: test.__name__.removeprefix("test_"),
)
def test_it_holds_what_every_family_must(test, model: Model) -> None:
    test(model, Tiny)


def test_rows_end_in_separators(model: Model) -> None:
    (sequence,) = prepare(model, [request_of(conformance._noise((24, 70)), "What is it?")]).sequences
    (tile,) = sequence.tokens.layout[0]
    assert (tile.grid.rows, tile.grid.columns) == (3, 8)  # 70 pixels fitted into 64, 24 into 22, up to whole patches
    ends = sequence.token_ids[sequence.tokens.having("separator")]
    assert model.tokenizer.convert_ids_to_tokens(ends.tolist()) == ["[IMG_BREAK]"] * 2 + ["[IMG_END]"]


def test_a_batch_of_several_shapes_is_not_stretched(model: Model) -> None:
    requests = [request_of(conformance._noise(size), "What is it?") for size in ((64, 64), (24, 70))]
    square, wide = capture_batch(model, requests, layers=0)
    assert (len(square), len(wide)) == (64, 24)


@pytest.mark.parametrize(
    ("settings", "region"),
    [
        ({"do_resize": False}, (0.0, 0.0, 24.0, 64.0)),  # 6 of 70 columns of pixels are left over
        ({"size": {"height": 16, "width": 200}}, (0.0, 0.0, 24.0, 70.0)),
        ({"do_center_crop": True, "crop_size": {"height": 16, "width": 16}}, (4.0, 26.25, 20.0, 43.75)),
    ],
)
def test_the_settings_decide_what_is_seen(tmp_path: Path, settings: dict[str, object], region: tuple) -> None:
    build(tmp_path, **settings)
    model = load_model(tmp_path)
    pixels = conformance._noise((24, 70))
    grid = capture(model, pixels, layers=0).tokens.layout[0][0].grid
    assert grid.region == pytest.approx(region)


def test_a_processor_with_another_patch_size_is_noticed(tmp_path: Path) -> None:
    build(tmp_path)
    model = load_model(tmp_path)
    model.processor.patch_size = 16
    with pytest.raises(ModelIncomplete, match="do not belong together"):
        capture(model, conformance._noise((64, 64)), layers=0)
