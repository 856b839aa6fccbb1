from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from patchlens.capture.capture import capture, request_of
from patchlens.errors import ImageError, NonFiniteStates, OptionError
from patchlens.inputs.image import open_image
from patchlens.models.hooks import observe
from patchlens.models.loading import Model, load_model
from patchlens.models.prepare import prepare

PAIRS = [(encoder, text) for encoder in ("clip", "siglip", "dinov2") for text in ("llama", "qwen2", "olmo2")]


@pytest.fixture(params=[*PAIRS, "text-only"], ids=lambda pair: pair if isinstance(pair, str) else "-".join(pair))
def model(request: pytest.FixtureRequest, llava_folder, causal_folder) -> Model:
    return load_model(causal_folder() if request.param == "text-only" else llava_folder(*request.param))


@pytest.fixture
def image(model: Model, picture: Image.Image) -> Image.Image | None:
    return picture if "image" in model.adapter.modalities else None


def _inputs(model: Model, image: Image.Image | None) -> dict[str, Tensor]:
    return prepare(model, [request_of(image, "What is it?")]).inputs


def _logits(model: Model, image: Image.Image | None) -> Tensor:
    with torch.no_grad():
        return model.network(**_inputs(model, image)).logits[0]


def _hooks(model: Model) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.network.modules())


def _all(model: Model, image: Image.Image | None, **options: object):
    return capture(model, image, "What is it?", positions="all", **options)


def test_layer_i_is_what_block_i_gave_to_the_bit(model: Model, image) -> None:
    """Hooked here without any of our own code, in a run of the whole model."""
    language_model = model.network.model if image is None else model.network.model.language_model
    outputs: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda _, __, output: outputs.append(output)) for block in language_model.layers
    ]
    _logits(model, image)
    for handle in handles:
        handle.remove()
    states = _all(model, image)
    assert states.layers == (0, 1, 2, 3, 4)
    assert len(outputs) == 4
    for layer, output in enumerate(outputs, start=1):
        assert torch.equal(states.at(layer), output[0])


def test_layer_0_is_the_projector_output_at_visual_tokens(model: Model, image) -> None:
    states = _all(model, image, layers=0)
    ids = states.token_ids[~states.visual]
    assert torch.equal(states.at(0)[~states.visual], model.input_embeddings[ids])
    if image is not None:
        pixels = _inputs(model, image)["pixel_values"]
        with torch.no_grad():
            projected = model.network.get_image_features(pixels).pooler_output[0]
        assert torch.equal(states.at(0)[states.visual], projected)


def test_final_norm_and_unembedding_of_the_last_layer_are_the_logits(model: Model, image) -> None:
    assert torch.equal(model.unembedding.logits(_all(model, image, layers=-1).at(4)), _logits(model, image))


def test_transformers_own_hidden_states_agree_below_the_final_norm(model: Model, image) -> None:
    with torch.no_grad():
        theirs = model.network(**_inputs(model, image), output_hidden_states=True).hidden_states
    ours = _all(model, image)
    for layer in range(4):
        assert torch.equal(ours.at(layer), theirs[layer][0])
    assert not torch.equal(ours.at(4), theirs[4][0])  # after the norm in theirs


def test_observing_changes_no_logit_and_leaves_nothing(model: Model, image) -> None:
    hooks, before = _hooks(model), _logits(model, image)
    with observe(model.blocks, range(5), lambda *_: None):
        assert torch.equal(_logits(model, image), before)
    _all(model, image)
    assert _hooks(model) == hooks
    assert torch.equal(_logits(model, image), before)


def test_an_image_gives_the_same_whatever_came_before(tiny_llava: Model, picture: Image.Image) -> None:
    first = capture(tiny_llava, picture)
    capture(tiny_llava, picture.rotate(180), "Something else")
    again = capture(tiny_llava, picture)
    assert torch.equal(first.vectors, again.vectors)


def test_each_kind_of_position(tiny_llava: Model, picture: Image.Image) -> None:
    everything = _all(tiny_llava, picture)
    visual = capture(tiny_llava, picture, "What is it?")
    text = capture(tiny_llava, picture, "What is it?", positions="text")
    assert everything.positions.tolist() == list(range(len(everything)))
    assert visual.positions.tolist() == list(range(1, 17))
    assert visual.visual.all()
    assert (visual.token_ids == 3).all()
    assert len(visual) == len(visual.grid)
    assert not text.visual.any()
    assert sorted([*visual.positions.tolist(), *text.positions.tolist()]) == everything.positions.tolist()
    for part in (visual, text):
        assert torch.equal(part.vectors, everything.vectors[:, part.positions])
        assert torch.equal(part.token_ids, everything.token_ids[part.positions])


def test_the_record(tiny_llava: Model, picture: Image.Image) -> None:
    states = capture(tiny_llava, picture, "What is it?", layers="1,3")
    assert states.layers == (1, 3)
    assert states.vectors.shape == (2, 16, 32)
    assert (states.prompt, states.image) == ("What is it?", open_image(picture))
    assert states.provenance.settings["layers"] == [1, 3]
    assert states.provenance.settings["sources"] == [open_image(picture).sha256]
    assert states.vectors.device == torch.device("cpu")
    assert not states.vectors.requires_grad
    assert "16 tokens × layers 1,3" in repr(states)
    with pytest.raises(OptionError, match="Layer 2 is not among"):
        states.at(2)


def test_ways_to_give_an_image(tiny_llava: Model, picture: Image.Image, tmp_path) -> None:
    picture.save(tmp_path / "scene.png")
    from_file = capture(tiny_llava, tmp_path / "scene.png")
    assert from_file.image.name == "scene"
    for source in (str(tmp_path / "scene.png"), picture, np.asarray(picture), open_image(picture)):
        assert torch.equal(capture(tiny_llava, source).vectors, from_file.vectors)


class _Calls:
    """Counts the forwards of some modules."""

    def __init__(self, *modules: nn.Module) -> None:
        self.made = [0] * len(modules)
        self.handles = [module.register_forward_hook(self._counter(i)) for i, module in enumerate(modules)]

    def _counter(self, place: int):
        def count(*_: object) -> None:
            self.made[place] += 1

        return count


@pytest.fixture
def calls(tiny_llava: Model) -> Iterator[_Calls]:
    counting = _Calls(*tiny_llava.blocks, tiny_llava.final_norm, tiny_llava.network.lm_head)
    yield counting
    for handle in counting.handles:
        handle.remove()


@pytest.mark.parametrize(
    ("layers", "made"),
    [(0, [0, 0, 0, 0, 0, 0]), ("1,2", [1, 1, 0, 0, 0, 0]), ("all", [1, 1, 1, 1, 0, 0])],
)
def test_nothing_is_computed_that_nobody_asked_for(tiny_llava, picture, calls: _Calls, layers, made) -> None:
    capture(tiny_llava, picture, layers=layers)
    assert calls.made == made


def test_half_precision_is_kept_as_computed(llava_folder, picture: Image.Image) -> None:
    model = load_model(llava_folder(), dtype="bfloat16")
    states = capture(model, picture)
    assert states.vectors.dtype == torch.bfloat16
    assert torch.equal(model.unembedding.logits(_all(model, picture).at(4)), _logits(model, picture))


# What cannot be done


@pytest.mark.parametrize("layers", [5, "0,9", [-6]])
def test_a_layer_that_does_not_exist(tiny_llava: Model, picture: Image.Image, layers: object) -> None:
    with pytest.raises(OptionError, match="4 blocks"):
        capture(tiny_llava, picture, layers=layers)


def test_positions_that_do_not_exist(tiny_llava: Model, tiny_causal: Model, picture: Image.Image) -> None:
    with pytest.raises(OptionError, match="visual, text, answer, all"):
        capture(tiny_llava, picture, positions="image")
    for model in (tiny_llava, tiny_causal):
        with pytest.raises(OptionError, match="no visual tokens"):
            capture(model, prompt="A cat")
    with pytest.raises(OptionError, match="text-only"):
        capture(tiny_causal, picture)


def test_an_image_that_cannot_be_read(tiny_llava: Model, tmp_path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        capture(tiny_llava, tmp_path / "none.png")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_first_layer_that_is_not_finite_is_named(llava_folder, picture: Image.Image, value: float) -> None:
    model = load_model(llava_folder())
    hooks = _hooks(model)
    model.blocks[1].mlp.down_proj.weight[0, 0] = value
    with pytest.raises(NonFiniteStates, match="at layer 2, the first of those captured, for 16 of 16 tokens"):
        capture(model, picture)
    assert capture(model, picture, layers="0-1").layers == (0, 1)
    assert _hooks(model) == hooks


def test_no_hook_stays_after_an_exception_inside_the_model(llava_folder, picture: Image.Image) -> None:
    model = load_model(llava_folder())
    hooks = _hooks(model)  # transformers keeps its own in the vision encoder

    def break_down(*_: object) -> None:
        raise KeyboardInterrupt

    handle = model.blocks[2].mlp.register_forward_hook(break_down)
    with pytest.raises(KeyboardInterrupt):
        capture(model, picture)
    handle.remove()
    assert _hooks(model) == hooks
    assert capture(model, picture).layers == (0, 1, 2, 3, 4)
