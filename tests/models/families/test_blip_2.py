"""BLIP-2 and InstructBLIP: queries before everything, without places."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conformance.families import blip_2, instructblip
from tests.conformance.tiny import VISION, tokenizer

from patchlens.capture.capture import capture
from patchlens.errors import ModelIncomplete, OptionError, UnknownFamily
from patchlens.models.loading import Model, load_model, model_of
from patchlens.models.token_map import KINDS

NOISE = np.random.default_rng(0).integers(90, 160, (40, 60, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=[blip_2, instructblip], ids=lambda tiny: tiny.__name__.rpartition(".")[2])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = tmp_path_factory.mktemp("blip")
    request.param.build(folder)
    return load_model(folder)


@pytest.mark.parametrize("prompt", ["What is it?", "<image>What is it?"])
@pytest.mark.parametrize("raw", [False, True])
def test_queries_stand_before_the_begin_of_the_text(model: Model, prompt: str, raw: bool) -> None:
    states = capture(model, NOISE, prompt, positions="all", raw=raw)
    assert [KINDS[kind] for kind in states.tokens.kinds[:6].tolist()] == ["query"] * 4 + ["special", "text"]
    assert states.token_ids[4] == model.tokenizer.bos_token_id
    assert states.tokens.cells[:4].tolist() == [0, 1, 2, 3]
    assert model.tokenizer.decode(states.token_ids[5:]) == "What is it?"


def test_queries_depend_on_the_image(model: Model) -> None:
    states, others = capture(model, NOISE, layers=0), capture(model, NOISE // 3, layers=0)
    assert ((states.at(0) - others.at(0)).norm(dim=1) > 1e-3).all()


def test_only_instructblips_queries_depend_on_the_prompt(model: Model) -> None:
    one, other = (capture(model, NOISE, prompt, layers=0).at(0) for prompt in ("What is it?", "A cat?"))
    assert torch.equal(one, other) == (model.adapter.family == "blip_2")


def test_text_alone_needs_no_image(model: Model) -> None:
    states = capture(model, prompt="What is it?", positions="all")
    assert states.token_ids[0] == model.tokenizer.bos_token_id
    assert model.tokenizer.decode(states.token_ids[1:]) == "What is it?"


def test_text_alone_is_answered(model: Model) -> None:
    states = capture(model, prompt="What is it?", positions="answer", answer=3)
    assert 1 <= len(states) <= 3


def test_two_images_are_refused(model: Model) -> None:
    with pytest.raises(OptionError, match=r"2 images .* in one prompt"):
        capture(model, [NOISE, NOISE // 2])


def test_a_processor_of_other_queries_is_refused(tmp_path: Path) -> None:
    blip_2.build(tmp_path)
    settings = tmp_path / "processor_config.json"
    fields = json.loads(settings.read_text())
    del fields["num_query_tokens"]  # as checkpoints before 2024 have it
    settings.write_text(json.dumps(fields))
    with pytest.raises(ModelIncomplete, match="Set num_query_tokens to 4"):
        load_model(tmp_path)


def _blip_2_of_t5() -> "torch.nn.Module":
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2QFormerConfig, Blip2VisionConfig, T5Config

    return Blip2ForConditionalGeneration(
        Blip2Config(
            vision_config=Blip2VisionConfig(**VISION, image_size=32, patch_size=8),
            qformer_config=Blip2QFormerConfig(**VISION, vocab_size=8),
            text_config=T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, vocab_size=320),
            num_query_tokens=4,
        )
    ).eval()


def _instructblip_of_t5() -> "torch.nn.Module":
    from transformers import (
        InstructBlipConfig,
        InstructBlipForConditionalGeneration,
        InstructBlipQFormerConfig,
        InstructBlipVisionConfig,
        T5Config,
    )

    return InstructBlipForConditionalGeneration(
        InstructBlipConfig(
            vision_config=InstructBlipVisionConfig(**VISION, image_size=32, patch_size=8),
            qformer_config=InstructBlipQFormerConfig(**VISION, vocab_size=8),
            text_config=T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, vocab_size=320),
            num_query_tokens=4,
        )
    ).eval()


@pytest.mark.parametrize("made", [_blip_2_of_t5, _instructblip_of_t5])
def test_an_encoder_decoder_is_refused(tmp_path: Path, made: Callable[[], torch.nn.Module]) -> None:
    network = made()
    network.config.save_pretrained(tmp_path)  # refused before its weights are read
    with pytest.raises(UnknownFamily, match=r"an encoder and a decoder .'t5'.*OPT"):
        load_model(tmp_path)
    with pytest.raises(UnknownFamily, match=r"an encoder and a decoder .'t5'"):
        model_of(network, tokenizer())
