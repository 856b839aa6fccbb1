from pathlib import Path

import numpy as np
import pytest
from tests.conformance.families import qwen2_audio

from patchlens.capture.capture import capture
from patchlens.errors import AudioError
from patchlens.models.loading import Model, load_model

LONGEST = 32_000
"""Samples: two seconds."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = tmp_path_factory.mktemp("qwen2_audio")
    qwen2_audio.build(folder)
    return load_model(folder)


def _noise(samples: int, rate: int = 16_000) -> tuple[np.ndarray, int]:
    return np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32), rate


@pytest.mark.parametrize("recording", [_noise(LONGEST), _noise(2 * 44_100, 44_100), _noise(2 * 8000, 8000)])
def test_the_longest_recording_is_heard_to_its_end(model: Model, recording: tuple[np.ndarray, int]) -> None:
    assert model.processor.feature_extractor.n_samples == LONGEST
    states = capture(model, audio=recording, layers=0)
    assert len(states) == 50
    assert float(states.tokens.seconds[-1, 1]) == pytest.approx(2.0, abs=0.02)


@pytest.mark.parametrize("samples", [LONGEST + 1, 40_000])
def test_a_longer_one_is_refused(model: Model, samples: int) -> None:
    with pytest.raises(
        AudioError, match=rf"of {samples / 16_000:.2f} s \({samples:,} samples\).*at most 2\.00 s .*parts"
    ):
        capture(model, audio=_noise(samples), layers=0)


def test_each_of_several_is_looked_at(model: Model) -> None:
    assert len(capture(model, audio=[_noise(LONGEST), _noise(8000)], prompt="Which?", layers=0)) > 50
    with pytest.raises(AudioError, match=r"2\.50 s"):
        capture(model, audio=[_noise(8000), _noise(40_000)], prompt="Which?", layers=0)
