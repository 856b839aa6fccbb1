"""From prompts to inputs, where the families do not matter."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from patchlens.capture.capture import capture, capture_batch, request_of
from patchlens.errors import ModelIncomplete, OptionError, OutOfMemory, PromptError
from patchlens.inputs.image import open_image
from patchlens.models.families.generic import GenericAdapter
from patchlens.models.loading import Model, load_model
from patchlens.models.prepare import prepare
from patchlens.models.tile import KINDS

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] }}:{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %} <image>{% else %} {{ part['text'] }}{% endif %}{% endfor %} | {% endfor %}"
    "{% if messages[0]['role'] == 'assistant' %}{{ raise_exception('the user begins') }}{% endif %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def model(llava_folder) -> Model:
    return load_model(llava_folder(chat_template=TEMPLATE))


def _text(model: Model, *given: object, **options: object) -> str:
    (sequence,) = prepare(model, [request_of(*given, **options)]).sequences
    return model.tokenizer.decode(sequence.token_ids).replace("<image>" * 16, "[IMAGE]")


def test_a_line_is_a_turn_with_all_images_before_it(model: Model, picture: Image.Image) -> None:
    assert _text(model, picture, "A cat") == "<s>user: [IMAGE] A cat | assistant:"
    assert _text(model, [picture, picture], "A cat") == "<s>user: [IMAGE] [IMAGE] A cat | assistant:"
    assert _text(model, None, "A cat") == "<s>user: A cat | assistant:"


def test_a_conversation_of_several_turns(model: Model, picture: Image.Image, tmp_path) -> None:
    picture.save(tmp_path / "cat.png")
    turns = [
        {
            "role": "user",
            "content": [{"type": "image", "image": tmp_path / "cat.png"}, {"type": "text", "text": "cat?"}],
        },
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": [{"type": "text", "text": "and"}, {"type": "image"}]},
    ]
    request = request_of(picture.rotate(180), turns)
    assert [image.name for image in request.images] == ["cat", "image"]
    (sequence,) = prepare(model, [request]).sequences
    text = model.tokenizer.decode(sequence.token_ids).replace("<image>" * 16, "[IMAGE]")
    assert text == "<s>user: [IMAGE] cat? | assistant: A cat. | user: and [IMAGE] | assistant:"
    sources = sequence.tokens.sources[sequence.tokens.visual].tolist()
    assert sources == [0] * 16 + [1] * 16
    states = capture(model, picture.rotate(180), turns, layers=0)
    alone = capture(model, tmp_path / "cat.png", layers=0)
    torch.testing.assert_close(states.at(0)[:16], alone.at(0), atol=1e-5, rtol=1e-4)


def test_a_raw_prompt_meets_no_template(model: Model, picture: Image.Image) -> None:
    assert _text(model, picture, "A <image> cat", raw=True) == "<s>A [IMAGE] cat"
    assert _text(model, None, "A cat", raw=True) == "<s>A cat"
    assert _text(model, picture, "A cat", raw=True) == "<s>[IMAGE]\nA cat"


@pytest.mark.parametrize(
    ("images", "prompt", "told"),
    [
        (1, "<image> and <image>", "2 places for images ('<image>'), but 1 came"),
        (0, "<image>", "1 places for images"),
        (2, [{"role": "user", "content": [{"type": "image"}]}], "1 places .* but 2 came"),
        (0, [{"role": "assistant", "content": "I begin"}], "refused the prompt: the user begins"),
        (0, [], "has no message"),
        (0, [{"role": "chair", "content": "?"}], "Cannot read the message"),
        (0, [{"role": "user", "content": [{"type": "smell"}]}], "Cannot read the part"),
        (0, [{"role": "user", "content": 7}], "Cannot read the content"),
        (0, [{"role": "user", "content": [{"type": "text"}]}], "its 'text'"),
    ],
)
def test_prompts_that_do_not_fit(model: Model, picture: Image.Image, images: int, prompt: object, told: str) -> None:
    with pytest.raises(PromptError, match=told.replace("(", r"\(").replace(")", r"\)").replace("?", r"\?")):
        prepare(model, [request_of([picture] * images, prompt)])


def test_a_conversation_without_a_template(tiny_llava: Model, picture: Image.Image) -> None:
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "cat"}]}]
    with pytest.raises(PromptError, match="no chat template"):
        prepare(tiny_llava, [request_of(picture, turns)])
    with pytest.raises(PromptError, match="a conversation was given"):
        request_of(picture, turns, raw=True)


def test_kinds(model: Model, picture: Image.Image) -> None:
    (sequence,) = prepare(model, [request_of(picture, "A cat")]).sequences
    named = [KINDS[kind] for kind in sequence.tokens.kinds.tolist()]
    assert named[0] == "special"  # <s>
    assert named.count("patch") == 16
    first = named.index("patch")
    assert named[first : first + 16] == ["patch"] * 16
    assert set(named[1:first] + named[first + 16 :]) == {"text"}
    states = capture(model, picture, "A cat", positions="all", answer="sleeps", layers=0)
    assert [KINDS[kind] for kind in states.tokens.kinds.tolist()][-1] == "answer"
    assert model.tokenizer.decode(states.token_ids[states.tokens.having("answer")]) == "sleeps"


def test_batches(model: Model, picture: Image.Image) -> None:
    requests = [request_of(picture, "A cat"), request_of(picture.rotate(180), "A much longer line about a dog")]
    for batch_size in (1, 2, 7):
        both = capture_batch(model, requests, batch_size=batch_size, positions="all")
        assert [len(states) for states in both] == [
            len(capture(model, r.images[0], r.prompt.text, positions="all")) for r in requests
        ]
        assert both[1].sources[0] == requests[1].images[0]
    with pytest.raises(OptionError, match="batches of 0"):
        capture_batch(model, requests, batch_size=0)
    with pytest.raises(OptionError, match="Split it"):
        prepare(model, [requests[0], request_of(None, "A cat")])


def test_prompts_of_all_kinds_in_one_call_are_as_alone(model: Model, picture: Image.Image) -> None:
    """A template begins with <s>, a raw prompt is begun by the tokenizer: neither decides for the other."""
    requests = [
        request_of(picture, "hi"),
        request_of(picture, "A cat", raw=True),
        request_of(None, "A cat"),
        request_of(picture, "hi"),
    ]
    for states, request in zip(
        capture_batch(model, requests, positions="all", layers=iter([0, 1])), requests, strict=True
    ):
        (alone,) = capture_batch(model, [request], positions="all", layers="0,1")
        assert torch.equal(states.token_ids, alone.token_ids)
        assert int((states.token_ids == 1).sum()) == 1
        torch.testing.assert_close(states.vectors, alone.vectors, atol=1e-5, rtol=1e-4)


def test_images_go_where_their_parts_stand(model: Model, picture: Image.Image) -> None:
    other = open_image(picture.rotate(180), name="other")
    parts = [{"type": "image"}, {"type": "text", "text": "first"}, {"type": "image", "image": other}]
    request = request_of(open_image(picture, name="given"), [{"role": "user", "content": parts}])
    assert [image.name for image in request.images] == ["given", "other"]


def test_answers_of_no_length(model: Model, picture: Image.Image) -> None:
    with pytest.raises(OptionError, match="Cannot capture an answer of -1"):
        capture(model, picture, answer=-1)


def test_an_answer_ends_where_the_model_has_no_more_positions(model: Model, picture: Image.Image) -> None:
    states = capture(model, picture, "A cat " * 150, positions="all", answer=300, layers=0)
    assert len(states) <= 512
    with pytest.raises(PromptError, match="512 positions"):
        capture(model, picture, "A cat", answer="A cat sleeps. " * 400)


def test_what_was_answered_is_in_the_provenance(model: Model, picture: Image.Image) -> None:
    states = capture(model, picture, "A cat", answer="sleeps", layers=0)
    assert states.provenance.settings["answer"] == "sleeps"


def test_marks_of_turns_are_no_separators(tmp_path, picture: Image.Image) -> None:
    from tests.conformance.families.mistral3 import build

    build(tmp_path)
    model = load_model(tmp_path)
    turns = [{"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image"}]}]
    (sequence,) = prepare(model, [request_of(picture, turns)]).sequences
    named = model.tokenizer.convert_ids_to_tokens(sequence.token_ids[sequence.tokens.having("separator")].tolist())
    assert "<turn>" not in named


def test_images_of_one_name_get_numbers(picture: Image.Image) -> None:
    request = request_of([picture, open_image(picture, name="cat"), np.asarray(picture)])
    assert [image.name for image in request.images] == ["image", "cat", "image (2)"]


def test_a_device_that_is_too_small_says_what_needs_less(
    model: Model, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("patchlens.capture.capture._run", full)
    requests = [request_of(picture, "A cat")] * 4
    with pytest.raises(OutOfMemory, match=r"GB of weights\) on 4 × \d+ tokens. Batches of 2 would need half"):
        capture_batch(model, requests)
    with pytest.raises(OutOfMemory, match="dtype='bfloat16'"):
        capture(model, picture)


def test_a_processor_of_another_model(llava_folder, picture: Image.Image) -> None:
    model = load_model(llava_folder())
    model.processor.patch_size = 4
    with pytest.raises(ModelIncomplete, match=r"made 64 visual tokens, .* say 16"):
        capture(model, picture)
    model.processor.image_processor.size = {"narrowest": 3}
    with pytest.raises(ModelIncomplete):
        capture(model, picture)


def test_a_multimodal_model_without_a_family(tmp_path, picture: Image.Image) -> None:
    """Its states are read; its visual tokens are a list, and the views say so."""
    from tests.conformance.tiny import TEXT, VISION, save, template, tokenizer
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaProcessor, VipLlavaConfig
    from transformers import VipLlavaForConditionalGeneration as Network
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from patchlens.lenses.logit import LogitLens
    from patchlens.views.document import document

    words = tokenizer(["<image>"])
    sizes = {"shortest_edge": 32}, {"height": 32, "width": 32}
    config = VipLlavaConfig(
        vision_config=CLIPVisionConfig(**VISION, image_size=32, patch_size=8),
        text_config=LlamaConfig(**TEXT, vocab_size=len(words)),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layers=[-1, -2],
    )
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size=sizes[0], crop_size=sizes[1]),
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )
    save(tmp_path, Network(config), processor)
    model = load_model(tmp_path)
    assert model.adapter.family == "generic"
    states = capture(model, [picture, picture.rotate(90)], "Which?")
    assert [KINDS[kind] for kind in states.tokens.kinds.unique().tolist()] == ["query"]
    assert states.tokens.sources.tolist() == [0] * 16 + [1] * 16
    assert states.tokens.cells.tolist() == [*range(16), *range(16)]
    drawn = document(LogitLens(model).read(states))
    assert [image["views"] for image in drawn["images"]] == [[], []]
    with pytest.raises(OptionError, match="no place in an image"):
        states.tokens.box(0)


def test_images_without_geometry_are_told_apart_by_what_each_has_alone(tmp_path) -> None:
    """Tags between tiles and tiles without a break: runs and equal shares would both be wrong."""
    from tests.conformance.families.idefics3 import build

    build(tmp_path)
    known = load_model(tmp_path)
    unknown = replace(known, adapter=GenericAdapter("idefics3", ("image", "text")))
    images = [np.zeros((64, 64, 3), np.uint8), np.zeros((60, 200, 3), np.uint8)]
    ours, theirs = (capture(model, images, "Which?", layers=0).tokens.sources for model in (known, unknown))
    assert len(set(ours.bincount().tolist())) == 2
    assert torch.equal(ours, theirs)


def test_what_is_asked_where_nothing_was_said(picture: Image.Image) -> None:
    film, hum = (np.zeros((2, 8, 8, 3), np.uint8), 1.0), (np.zeros(80, np.float32), 16_000)
    assert request_of(picture, video=film).prompt.text == "Describe this image."
    assert request_of(video=film).prompt.text == "Describe this video."
    assert request_of(audio=hum).prompt.text == "Describe this recording."
    assert request_of().prompt.text == "Describe this image."
