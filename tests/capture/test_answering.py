import pytest
import torch
from PIL import Image
from torch import Tensor

from patchlens.capture.answering import answer_text
from patchlens.capture.capture import capture
from patchlens.errors import ImageError, ModelIncomplete, OptionError, OutOfMemory, PromptError
from patchlens.models.loading import load_model
from patchlens.models.model import Model


def _captured(model: Model, images: object, prompt: str, tokens: int) -> str:
    states = capture(model, images, prompt, positions="answer", answer=tokens, layers=0)
    return model.tokenizer.decode(states.token_ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_it_says_what_capture_captures(tiny_llava: Model, picture: Image.Image, count: int) -> None:
    images = [picture, picture.rotate(90)][:count] or None
    said = answer_text(tiny_llava, images, "What is it?", max_tokens=6)
    assert said == _captured(tiny_llava, images, "What is it?", 6)
    assert said


def test_a_model_without_images(tiny_causal: Model) -> None:
    said = answer_text(tiny_causal, None, "A cat sleeps", max_tokens=5)
    assert said == _captured(tiny_causal, None, "A cat sleeps", 5)
    with pytest.raises(OptionError, match="text-only"):
        answer_text(tiny_causal, Image.new("RGB", (9, 9)), "A cat", max_tokens=5)


def test_a_picture_of_the_embedded_model() -> None:
    from patchlens.models.embedded import embedded

    member = embedded("picturebook")
    assert member is not None
    assert member.examples is not None
    model = load_model("picturebook")
    said = answer_text(model, member.examples / "park.png", max_tokens=80)
    assert "in a park" in said
    assert said == said.strip()
    assert "</s>" not in said
    first = answer_text(model, member.examples / "park.png", max_tokens=1)
    assert said.startswith(first)
    assert len(first) < len(said)


def test_it_ends_where_the_models_positions_end(tiny_llava: Model) -> None:
    words = " ".join(["cat"] * 508)
    assert 512 - len(tiny_llava.tokenizer(words)["input_ids"]) == 2
    assert answer_text(tiny_llava, None, words, max_tokens=50) == _captured(tiny_llava, None, words, 2)
    with pytest.raises(PromptError, match="513 tokens"):
        answer_text(tiny_llava, None, words + " cat cat", max_tokens=50)


def test_what_cannot_be_answered(tiny_llava: Model, monkeypatch: pytest.MonkeyPatch, picture: Image.Image) -> None:
    with pytest.raises(OptionError, match="from 1 on"):
        answer_text(tiny_llava, picture, "Why?", max_tokens=0)
    with pytest.raises(ImageError, match="no such file"):
        answer_text(tiny_llava, "none.png", "Why?", max_tokens=3)
    for raised, ours in ((torch.OutOfMemoryError("full"), OutOfMemory), (RuntimeError("odd shapes"), ModelIncomplete)):

        def fail(*_: object, error: Exception = raised) -> Tensor:
            raise error

        monkeypatch.setattr(type(tiny_llava.adapter), "generate", fail)
        with pytest.raises(ours, match=r"too little memory|odd shapes"):
            answer_text(tiny_llava, picture, "Why?", max_tokens=3)
