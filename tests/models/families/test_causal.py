import pytest
from PIL import Image

from patchlens.errors import OptionError, PromptError
from patchlens.inputs.image import open_image
from patchlens.models.loading import Model, load_model


def test_text_is_taken_as_it_is(tiny_causal: Model) -> None:
    prepared = tiny_causal.adapter.prepare(tiny_causal, None, "A cat")
    assert tiny_causal.tokenizer.decode(prepared.token_ids) == "<s>A cat"
    assert (prepared.grid, len(prepared.visual_positions)) == (None, 0)


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_one_text_is_never_padded(causal_folder, padding_side: str) -> None:
    model = load_model(causal_folder(padding_side=padding_side))
    prepared = model.adapter.prepare(model, None, "A cat")
    assert prepared.inputs["attention_mask"].all()


def test_what_is_already_begun_is_not_begun_again(tiny_causal: Model) -> None:
    prepared = tiny_causal.adapter.prepare(tiny_causal, None, "<s>A cat")
    assert tiny_causal.tokenizer.decode(prepared.token_ids) == "<s>A cat"


def test_images_are_refused(tiny_causal: Model) -> None:
    with pytest.raises(OptionError, match=r"'sofa'.*text-only"):
        tiny_causal.adapter.prepare(tiny_causal, open_image(Image.new("RGB", (8, 8)), name="sofa"), "What?")


def test_an_empty_prompt(causal_folder) -> None:
    model = load_model(causal_folder(bos=False))
    with pytest.raises(PromptError, match="is empty"):
        model.adapter.prepare(model, None, "")


def test_a_prompt_longer_than_the_model(tiny_causal: Model) -> None:
    with pytest.raises(PromptError, match="512 positions"):
        tiny_causal.adapter.prepare(tiny_causal, None, "cat " * 600)
