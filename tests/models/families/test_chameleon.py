"""What is particular to a model whose images are words of its vocabulary."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from tests.conformance.families import chameleon as tiny
from tests.conformance.test_families import _noise

from patchlens.capture.capture import capture
from patchlens.models.loading import Model, load_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = tmp_path_factory.mktemp("chameleon")
    torch.manual_seed(0)
    tiny.build(folder)
    return load_model(folder)


def test_the_codes_are_those_that_the_model_uses(model: Model) -> None:
    codes = model.adapter.codes(model.config)
    assert list(codes) == model.network.model.vocabulary_mapping.image_tokens
    assert len(codes) == tiny.CODES
    assert model.adapter.image_token_id(model.config, model.processor) not in codes


def test_states_below_the_first_block_are_embeddings_of_codes_in_order(model: Model) -> None:
    states = capture(model, _noise((32, 56)), layers=0)
    pixels = model.processor.image_processor([_noise((32, 56))], return_tensors="pt")["pixel_values"]
    codes = model.network.get_image_tokens(pixels)[0].long()
    assert len(codes.unique()) > 1
    torch.testing.assert_close(states.at(0), model.input_embeddings[codes])


def test_codes_are_never_said(model: Model) -> None:
    states = capture(model, _noise((32, 32)), layers="all")
    codes = list(model.adapter.codes(model.config))
    for layer in range(model.n_layers + 1):
        probabilities = model.unembedding.logits(states.at(layer)).softmax(dim=-1)
        assert (probabilities[:, codes] == 0).all()
        assert math.isclose(float(probabilities[0].sum()), 1, rel_tol=1e-5)


def test_what_the_encoder_finds_lies_around_the_cell(model: Model) -> None:
    """With all its convolutions, before codes are chosen, and away from edges: less than a cell up and left.

    Each halving covers three pixels from the first of its two, so random weights look half a pixel further down and
    right; together that is almost half a cell, and a change is found that much further up and left.
    """
    encoder = model.network.model.vqmodel.encoder
    cell = 2 ** (len(model.config.vq_config.channel_multiplier) - 1)
    torch.manual_seed(0)
    pixels = torch.randn(1, 3, 16 * cell, 16 * cell) / 10
    offsets = []
    with tiny.local(model.network), torch.no_grad():
        before = encoder(pixels)[0]
        assert before.shape[1:] == (16, 16)
        for row, column in itertools.product(range(6, 10), repeat=2):
            changed = pixels.clone()
            changed[..., row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = 1
            shares = (encoder(changed)[0] - before).square().sum(dim=0)
            shares /= shares.sum()
            middle = [float((shares.sum(dim=side) * torch.arange(16)).sum()) for side in (1, 0)]
            offsets.append((middle[0] - row, middle[1] - column))
    assert all(-1 < offset < 0 for pair in offsets for offset in pair)
