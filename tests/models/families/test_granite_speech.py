from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conformance.families import granite_speech

from patchlens.capture.capture import capture
from patchlens.errors import MissingExtra
from patchlens.models.loading import Model, load_model

RECORDING = (np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32), 16_000)


@pytest.fixture(params=[False, True], ids=["granite_speech", "granite_speech_plus"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Model:
    granite_speech.build(tmp_path, plus=request.param)
    return load_model(tmp_path)


def test_three_tokens_to_a_window(model: Model) -> None:
    spans = capture(model, audio=RECORDING, layers=0).tokens.seconds
    expected = [[0, 0.115], [0.115, 0.235], [0.235, 0.355], [0.355, 0.475], [0.475, 0.595]]
    torch.testing.assert_close(spans, torch.tensor(expected).repeat_interleave(3, dim=0))


def test_a_lora_that_is_not_loaded_is_missed(model: Model) -> None:
    model.config.has_lora_adapter = True
    with pytest.raises(MissingExtra, match="pip install peft"):
        capture(model, audio=RECORDING)


def test_a_lora_stays_on(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """peft is not installed: its switches are recorded."""
    turned: list[str] = []
    network: Any = model.network
    model.config.has_lora_adapter = True
    monkeypatch.setattr(network, "_hf_peft_config_loaded", True, raising=False)
    monkeypatch.setattr(network, "enable_adapters", lambda: turned.append("on"))
    monkeypatch.setattr(network, "disable_adapters", lambda: turned.append("off"))
    capture(model, audio=RECORDING)
    assert turned == ["on"]
    capture(model, prompt="What is it?", positions="answer", answer=2)
    assert "off" not in turned
    ids = torch.tensor([[1, 5, 6]])
    network.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=1)
    assert "off" in turned  # which is what transformers does, and why ours goes past it


def test_without_torchaudio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.granite_speech import feature_extraction_granite_speech as file

    granite_speech.build(tmp_path)

    def missing(*_: object) -> None:
        raise ImportError("GraniteSpeechFeatureExtractor requires the torchaudio library")

    monkeypatch.setattr(file, "requires_backends", missing)
    with pytest.raises(MissingExtra, match="pip install torchaudio"):
        load_model(tmp_path)
