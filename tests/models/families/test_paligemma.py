from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conformance.families import paligemma

from patchlens.capture.capture import capture, request_of
from patchlens.models.loading import Model, load_model
from patchlens.models.prepare import prepare

PIXELS = np.random.default_rng(0).integers(90, 160, (40, 60, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=[1, 2])
def model(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Model:
    folder: Path = tmp_path_factory.mktemp("paligemma")
    paligemma.build(folder, request.param)
    return load_model(folder)


def test_the_prompt_has_the_form_of_the_processor(model: Model) -> None:
    prepared = prepare(model, [request_of([PIXELS, PIXELS], "What?")])
    text = model.tokenizer.decode(prepared.sequences[0].token_ids)
    assert text.replace(" ", "") == "<image>" * 32 + "<s>What?\n"
    assert "labels" not in prepared.inputs
    alone = prepare(model, [request_of(None, "What?")])
    assert model.tokenizer.decode(alone.sequences[0].token_ids).replace(" ", "") == "<s>What?\n"


def test_the_image_sees_the_prompt(model: Model) -> None:
    asked = capture(model, PIXELS, "What is it?", layers=[0, 1])
    other = capture(model, PIXELS, "What is it!", layers=[0, 1])
    assert torch.equal(asked.at(0), other.at(0))
    assert (asked.at(1) - other.at(1)).abs().max() > 1e-3


def test_the_prefix_does_not_see_the_answer(model: Model) -> None:
    prompt = capture(model, PIXELS, "What is it?", positions="all")
    answered = capture(model, PIXELS, "What is it?", positions="all", answer=" a cat")
    assert len(answered) > len(prompt)
    torch.testing.assert_close(answered.vectors[:, : len(prompt)], prompt.vectors, atol=1e-5, rtol=1e-4)


def test_an_answer_sees_only_what_is_before_it(model: Model) -> None:
    short = capture(model, PIXELS, "What is it?", positions="answer", answer=" a cat")
    long = capture(model, PIXELS, "What is it?", positions="answer", answer=" a cat and a dog")
    torch.testing.assert_close(long.vectors[:, : len(short)], short.vectors, atol=1e-5, rtol=1e-4)


def test_text_alone_is_causal(model: Model) -> None:
    short = capture(model, None, "A cat", positions="all", raw=True)
    long = capture(model, None, "A cat sleeps", positions="all", raw=True)
    torch.testing.assert_close(long.vectors[:, : len(short)], short.vectors, atol=1e-5, rtol=1e-4)
