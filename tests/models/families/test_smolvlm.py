from pathlib import Path

import pytest
from tests.conformance.families import smolvlm
from transformers.models.smolvlm import processing_smolvlm

from patchlens.errors import MissingExtra
from patchlens.models.families.smolvlm import num2words_optional
from patchlens.models.loading import load_model


def test_it_loads_without_what_only_videos_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processing_smolvlm, "num2words", None)
    smolvlm.build(tmp_path)
    assert load_model(tmp_path).adapter.family == "smolvlm"
    assert processing_smolvlm.num2words is None
    with num2words_optional(), pytest.raises(MissingExtra, match="pip install num2words"):
        processing_smolvlm.num2words(3)


def test_what_is_installed_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processing_smolvlm, "num2words", str)
    with num2words_optional():
        assert processing_smolvlm.num2words is str
    assert processing_smolvlm.num2words is str
