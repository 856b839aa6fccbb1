"""What is particular to a model whose images are words of its vocabulary, with an end after each row."""

from pathlib import Path

import pytest
import torch
from tests.conformance.families import emu3 as tiny
from tests.conformance.test_families import _noise

from patchlens.capture.capture import capture, capture_batch, request_of
from patchlens.errors import ImageError
from patchlens.models.loading import Model, load_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = tmp_path_factory.mktemp("emu3")
    torch.manual_seed(0)
    tiny.build(folder)
    return load_model(folder)


def test_the_codes_are_those_that_the_model_uses(model: Model) -> None:
    codes = model.adapter.codes(model.config)
    mapping = model.network.vocabulary_mapping
    assert list(codes) == mapping.image_tokens
    assert len(codes) == tiny.CODES
    assert mapping.eol_token_id not in codes
    assert model.adapter.image_token_id(model.config, model.processor) == mapping.image_token_id


def test_states_below_the_first_block_are_embeddings_of_codes_with_an_end_after_each_row(model: Model) -> None:
    states = capture(model, _noise((32, 56)), layers=0, positions="all")
    made = model.processor.image_processor([_noise((32, 56))], return_tensors="pt")
    codes = model.network.model.get_image_tokens(made["pixel_values"], made["image_sizes"]).long().view(4, 8)
    ends = states.at(0)[states.tokens.having("filler")]
    embeddings = model.input_embeddings
    torch.testing.assert_close(ends, embeddings[codes[:, -1]])
    assert (codes[:, -1] == model.network.vocabulary_mapping.eol_token_id).all()
    assert len(codes[:, :-1].unique()) > 1
    torch.testing.assert_close(states.at(0)[states.tokens.visual], embeddings[codes[:, :-1].flatten()])


def test_a_larger_image_in_the_batch_leaves_the_codes_alone(model: Model) -> None:
    """The processor would pad both to one size, and the encoder normalises over all it sees."""
    small, large = _noise((32, 32)), _noise((64, 64), 1)
    made = model.processor.image_processor([[small], [large]], return_tensors="pt")
    with torch.no_grad():
        padded = model.network.model.get_image_tokens(made["pixel_values"], made["image_sizes"]).view(-1)[: 4 * 5]
    made = model.processor.image_processor([[small]], return_tensors="pt")
    codes = model.network.model.get_image_tokens(made["pixel_values"], made["image_sizes"]).view(-1)
    assert not torch.equal(padded, codes)
    requests = [request_of(pixels, "What is it?") for pixels in (small, large)]
    states = capture_batch(model, requests, layers=0)[0]
    expected = codes.view(4, 5)[:, :-1].flatten().long()
    torch.testing.assert_close(states.at(0), model.input_embeddings[expected])


def test_answers_hold_no_codes_although_the_model_would_give_some(model: Model) -> None:
    codes = torch.tensor(list(model.adapter.codes(model.config)))
    head = model.network.get_output_embeddings()
    before = head.weight.data.clone()
    last = capture(model, _noise((32, 32)), positions="all", layers=model.n_layers).at(model.n_layers)[-1:]
    head.weight.data[codes] = model.final_norm(last).detach()  # in its own direction: the largest logits there are
    try:
        answer = capture(model, _noise((32, 32)), positions="answer", answer=3)
        logits = head(model.final_norm(last))
    finally:
        head.weight.data = before
    assert int(logits[0].argmax()) in codes
    assert not torch.isin(answer.token_ids, codes).any()


@pytest.mark.parametrize("text", ["<image>What is it?", "<s><image>What is it?"])
def test_a_prompt_begins_once(model: Model, text: str) -> None:
    states = capture(model, _noise((32, 32)), text, positions="all", layers=0)
    begin = model.tokenizer.bos_token_id
    assert (states.token_ids == begin).nonzero().flatten().tolist() == [0]


def test_an_image_that_the_processor_refuses_is_named(model: Model) -> None:
    with pytest.raises(ImageError, match="Crop it"):
        capture(model, _noise((2, 500)))


def test_without_resizing_what_is_left_of_a_cell_is_not_seen(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.processor.image_processor, "do_resize", False)
    states = capture(model, _noise((37, 50)), layers=0)
    assert states.tokens.layout[0][0].grid.region == (0.0, 0.0, 32.0, 48.0)
