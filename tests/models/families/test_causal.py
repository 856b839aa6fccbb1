import pytest
from PIL import Image

from patchlens.capture.capture import request_of
from patchlens.errors import OptionError, PromptError
from patchlens.inputs.image import open_image
from patchlens.models.loading import Model, load_model
from patchlens.models.prepare import prepare


def test_text_is_taken_as_it_is(tiny_causal: Model) -> None:
    (sequence,) = prepare(tiny_causal, [request_of(None, "A cat")]).sequences
    assert tiny_causal.tokenizer.decode(sequence.token_ids) == "<s>A cat"
    assert (sequence.sources, int(sequence.tokens.visual.sum())) == ((), 0)


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_one_text_is_never_padded(causal_folder, padding_side: str) -> None:
    model = load_model(causal_folder(padding_side=padding_side))
    prepared = prepare(model, [request_of(None, "A cat")])
    assert prepared.inputs["attention_mask"].all()


def test_what_is_already_begun_is_not_begun_again(tiny_causal: Model) -> None:
    (sequence,) = prepare(tiny_causal, [request_of(None, "<s>A cat")]).sequences
    assert tiny_causal.tokenizer.decode(sequence.token_ids) == "<s>A cat"


def test_images_are_refused(tiny_causal: Model) -> None:
    with pytest.raises(OptionError, match=r"'sofa'.*text-only"):
        prepare(tiny_causal, [request_of(open_image(Image.new("RGB", (8, 8)), name="sofa"), "What?")])


def test_an_empty_prompt(causal_folder) -> None:
    model = load_model(causal_folder(bos=False))
    with pytest.raises(PromptError, match="is empty"):
        prepare(model, [request_of(None, "")])


def test_a_prompt_longer_than_the_model(tiny_causal: Model) -> None:
    with pytest.raises(PromptError, match="512 positions"):
        prepare(tiny_causal, [request_of(None, "cat " * 600)])
