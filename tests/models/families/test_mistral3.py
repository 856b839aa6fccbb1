from pathlib import Path

import numpy as np
import pytest
from tests.conformance.families import mistral3

from patchlens.capture.capture import capture, request_of
from patchlens.cli import main
from patchlens.errors import ImageError
from patchlens.models.loading import Model, load_model
from patchlens.models.prepare import prepare


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("mistral3")
    mistral3.build(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load_model(folder)


def _grey(size: tuple[int, int]) -> np.ndarray:
    return np.full((*size, 3), 128, np.uint8)


def test_an_image_of_one_token_is_refused(model: Model) -> None:
    with pytest.raises(ImageError, match=r"8 × 8 pixels: it becomes one visual token.*two or more.*more than 8 pixels"):
        capture(model, _grey((8, 8)), layers=0)
    assert len(capture(model, _grey((8, 9)), layers=0)) == 2  # as the message says


def test_two_images_of_one_token_each_are_taken(model: Model) -> None:
    states = capture(model, [_grey((8, 8)), _grey((5, 3))], layers=0)
    assert states.tokens.sources.tolist() == [0, 1]


def test_transformers_fails_on_one_token_alone(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it does not, nothing needs to be refused."""
    (tile,) = model.adapter.tiles(model.config, model.processor, (8, 8), 2) or ()
    monkeypatch.setattr(type(model.adapter), "tiles", lambda *_: (tile,))
    prepared = prepare(model, [request_of(_grey((8, 8)), "What is it?")])
    with pytest.raises(RuntimeError, match="split_sizes"):
        model.run(prepared.inputs)


def test_an_image_of_which_a_side_vanishes_is_refused(
    model: Model, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ImageError, match=r"3000 × 20 pixels.*shrink it to 64 × 0\."):
        capture(model, _grey((3000, 20)), layers=0)
    assert main(["models", str(folder), "--size", "3000x20"]) != 0  # width first
    assert "image of 20 × 3000 pixels: this model's processor would shrink it to 0 × 64." in capsys.readouterr().err
