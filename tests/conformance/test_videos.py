"""Families that take videos: every token knows its moment and its place in the frame.

Preparing a video needs torchvision, so these run inside test_with_torchvision.py; without it, there is a message.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conformance.test_families import _quiet

from patchlens.capture.capture import capture, request_of
from patchlens.capture.elsewhere import open_states
from patchlens.errors import ImageError, MissingExtra, PromptError
from patchlens.inputs.image import ImageInput
from patchlens.lenses.logit import LogitLens
from patchlens.models.loading import Model, load_model
from patchlens.models.prepare import prepare
from patchlens.models.registry import families
from patchlens.views.document import document

WATCHING = [adapter.family for adapter in families() if "video" in adapter.modalities]
WITH = find_spec("torchvision") is not None


@pytest.fixture(scope="module", params=WATCHING)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp(request.param)
    import_module(f"tests.conformance.families.{request.param}").build(folder)
    return load_model(folder)


def _film(frames: int = 5, size: tuple[int, int] = (48, 64), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(90, 160, (frames, *size, 3), dtype=np.uint8)


if not WITH:

    def test_without_torchvision_there_is_a_message(model: Model) -> None:
        with pytest.raises(MissingExtra, match="pip install torchvision"):
            capture(model, video=(_film(), 2.0))

else:

    def test_moments_and_places(model: Model) -> None:
        states = capture(model, video=(_film(), 2.0), prompt="What happens?", layers=0)
        layout = states.tokens.layout
        assert len(layout) == len(states.sources) == 3  # five frames, two to a moment
        assert [tile.time for (tile,) in layout] == [(0.0, 1.0), (1.0, 2.0), (2.0, 2.5)]
        assert {tile.role for (tile,) in layout} == {"frame"}
        assert [source.name for source in states.sources] == ["video 0.00 s", "video 1.00 s", "video 2.00 s"]
        assert all(isinstance(source, ImageInput) for source in states.sources)
        counts = states.tokens.sources.bincount().tolist()
        assert counts == [len(tile) for (tile,) in layout]

    def test_the_model_fills_these_positions(model: Model) -> None:
        prepared = prepare(model, [request_of(None, "What happens?", video=(_film(), 2.0))])
        tokens = prepared.sequences[0].tokens
        assert torch.equal(prepared.inputs["mm_token_type_ids"][0] == 2, tokens.having("patch"))
        with torch.no_grad():
            embedded = model.network.get_input_embeddings()(prepared.inputs["input_ids"])[0]
        first = capture(model, video=(_film(), 2.0), prompt="What happens?", layers=0, positions="all").at(0)
        assert torch.equal((first != embedded).any(dim=1), tokens.having("patch"))

    def test_moment_and_place_by_experiment(model: Model) -> None:
        """Changing one box in the two frames of one moment moves the token of that moment and cell most."""
        film = _film(6, (64, 96))
        rng = np.random.default_rng(1)
        with _quiet(model.network, import_module("tests.conformance.families.qwen2_vl")):
            before = capture(model, video=(film, 2.0), layers=0)
            for token in rng.permutation(len(before))[:12].tolist():
                moment = int(before.tokens.sources[token])
                top, left, bottom, right = (round(side) for side in before.tokens.box(token))
                changed = film.copy()
                changed[2 * moment : 2 * moment + 2, top:bottom, left:right] = (255, 0, 255)
                moved = (capture(model, video=(changed, 2.0), layers=0).at(0) - before.at(0)).norm(dim=1)
                assert int(moved.argmax()) == token

    def test_what_the_processor_writes_between_moments_is_a_separator(model: Model) -> None:
        (sequence,) = prepare(model, [request_of(None, "What happens?", video=(_film(), 2.0))]).sequences
        at = torch.nonzero(sequence.tokens.having("patch"))[:, 0]
        between = sequence.tokens.take(torch.arange(int(at[0]), int(at[-1])))
        assert not between.having("text", "special").any()

    def test_images_beside_a_video(model: Model) -> None:
        image = _film(1, (40, 40))[0]
        states = capture(model, image, "Which?", video=(_film(), 2.0), layers=0)
        assert [source.name for source in states.sources] == ["image", *(f"video {n:.2f} s" for n in range(3))]
        alone = capture(model, image, "Which?", layers=0)
        torch.testing.assert_close(states.at(0)[: len(alone)], alone.at(0), atol=1e-5, rtol=1e-4)

    def test_reading_saving_and_drawing(model: Model, tmp_path: Path) -> None:
        states = capture(model, video=(_film(), 2.0), layers=0)
        again = open_states(states.save(tmp_path / "film.safetensors"))
        assert again.tokens.layout == states.tokens.layout
        drawn = document(LogitLens(model).read(again, k=2))
        assert [image["name"] for image in drawn["images"]] == [source.name for source in states.sources]
        assert [view["name"] for image in drawn["images"] for view in image["views"]] == ["Frame"] * 3

    def test_counts_that_differ(model: Model) -> None:
        turns = [{"role": "user", "content": [{"type": "text", "text": "What?"}]}]
        with pytest.raises(PromptError, match="0 places for videos"):
            capture(model, prompt=turns, video=(_film(), 2.0))


def test_frames_of_two_sizes() -> None:
    with pytest.raises(ImageError, match="2 sizes"):
        request_of(video=([_film(1)[0], _film(1, (20, 20))[0]], 1.0))
