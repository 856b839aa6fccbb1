import numpy as np
import pytest
import torch
from PIL import Image

from patchlens.capture.capture import capture, request_of
from patchlens.errors import ImageError, ModelIncomplete, PromptError
from patchlens.models.loading import Model, load_model
from patchlens.models.patch_grid import PatchGrid
from patchlens.models.prepare import prepare

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}User:{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %} <image>{% else %} {{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} Answer:{% endif %}"
)


def _prepare(model: Model, image: Image.Image | None, prompt: str = "What is it?"):
    return prepare(model, [request_of(image, prompt)]).sequences[0]


@pytest.mark.parametrize("encoder", ["clip", "siglip", "dinov2"])
def test_visual_positions_fill_the_grid_in_order(llava_folder, picture: Image.Image, encoder: str) -> None:
    sequence = _prepare(load_model(llava_folder(encoder)), picture)
    ((tile,),) = sequence.tokens.layout
    assert (tile.grid.rows, tile.grid.columns, tile.grid.image_size) == (4, 4, (64, 96))
    assert torch.nonzero(sequence.tokens.visual)[:, 0].tolist() == list(range(1, 17))  # after <s>
    ids = sequence.token_ids
    assert (ids[sequence.tokens.visual] == 3).all()
    assert (ids == 3).sum() == 16


@pytest.mark.parametrize("encoder", ["clip", "siglip", "dinov2"])
@pytest.mark.parametrize("size", [(64, 64), (96, 64), (64, 112)])
def test_geometry_by_experiment(llava_folder, encoder: str, size: tuple[int, int]) -> None:
    """Changing the pixels of one patch of the original moves the token that the grid names most."""
    model = load_model(llava_folder(encoder, image_size=36, vision_blocks=1))
    for name, parameter in model.network.model.vision_tower.named_parameters():
        if "attention.output" in name or "attn.out_proj" in name:
            parameter.mul_(0.05)  # random attention would move other tokens as much as the patch's own
    noise = np.random.default_rng(0).integers(90, 160, (*size, 3), dtype=np.uint8)
    before, grid = _projected(model, noise)
    assert (grid.rows, grid.columns) == (4, 4)  # 36 // 8: four pixels are left over
    assert [_most_moved(model, noise, before, grid.box(*grid.at(cell))) for cell in range(16)] == list(range(16))
    # It could fail: a grid over another region names other tokens.
    shifted = PatchGrid(
        4, 4, grid.image_size, (grid.region[0] + 12, *grid.region[1:2], grid.region[2] + 12, grid.region[3])
    )
    named = [_most_moved(model, noise, before, shifted.box(*shifted.at(cell))) for cell in range(12)]
    assert named != list(range(12))


def _projected(model: Model, pixels: np.ndarray) -> tuple[torch.Tensor, PatchGrid]:
    states = capture(model, pixels, layers=0)
    assert states.grid is not None
    return states.at(0), states.grid


def _most_moved(model: Model, pixels: np.ndarray, before: torch.Tensor, box: tuple[float, ...]) -> int:
    top, left, bottom, right = (round(side) for side in box)
    changed = pixels.copy()
    changed[top:bottom, left:right] = (255, 0, 255)
    assert (changed != pixels).any()
    return int((_projected(model, changed)[0] - before).norm(dim=1).argmax())


def test_the_sequence_without_a_template(tiny_llava: Model, picture: Image.Image) -> None:
    with_image = _prepare(tiny_llava, picture, "A cat")
    assert tiny_llava.tokenizer.decode(with_image.token_ids) == "<s>" + "<image>" * 16 + "\nA cat"
    text = _prepare(tiny_llava, None, "A cat")
    assert tiny_llava.tokenizer.decode(text.token_ids) == "<s>A cat"
    assert (int(text.tokens.visual.sum()), text.sources) == (0, ())


def test_a_prompt_with_the_placeholder_is_taken_as_it_is(tiny_llava: Model, picture: Image.Image) -> None:
    prepared = _prepare(tiny_llava, picture, "A cat <image> sleeps")
    assert tiny_llava.tokenizer.decode(prepared.token_ids) == "<s>A cat " + "<image>" * 16 + " sleeps"
    assert int(torch.nonzero(prepared.tokens.visual)[0]) > 1


def test_the_chat_template_is_used_and_begins_once(llava_folder, picture: Image.Image) -> None:
    model = load_model(llava_folder(chat_template=TEMPLATE))
    with_image = _prepare(model, picture, "A cat")
    assert model.tokenizer.decode(with_image.token_ids) == "<s>User: " + "<image>" * 16 + " A cat Answer:"
    assert model.tokenizer.decode(_prepare(model, None, "A cat").token_ids) == "<s>User: A cat Answer:"


@pytest.mark.parametrize(("with_image", "prompt"), [(True, "<image> and <image>"), (False, "<image> what is it?")])
def test_placeholders_that_have_no_image(
    tiny_llava: Model, picture: Image.Image, with_image: bool, prompt: str
) -> None:
    with pytest.raises(PromptError, match="Leave the placeholder out"):
        _prepare(tiny_llava, picture if with_image else None, prompt)


def test_a_prompt_longer_than_the_model(tiny_llava: Model, picture: Image.Image) -> None:
    for image in (picture, None):
        with pytest.raises(PromptError, match="512 positions"):
            _prepare(tiny_llava, image, "cat " * 600)


def test_an_image_like_a_thread(tiny_llava: Model) -> None:
    with pytest.raises(ImageError, match="too narrow"):
        _prepare(tiny_llava, Image.new("RGB", (2, 400_000)))


def test_a_processor_that_changes_its_mind_is_noticed(llava_folder, picture: Image.Image) -> None:
    model = load_model(llava_folder())
    model.processor.num_additional_image_tokens = 0
    with pytest.raises(
        ModelIncomplete, match=r"made 15 visual tokens, but .* say 16 \('image' of 64 × 96 pixels: 4 × 4 = 16\)"
    ):
        _prepare(model, picture)
