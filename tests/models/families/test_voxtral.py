import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conformance.families import voxtral

from patchlens.capture.capture import capture
from patchlens.models.loading import Model, load_model
from patchlens.models.token_map import KINDS

RECORDING = (np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32), 16_000)


class MistralCommon:
    """What patchlens uses of mistral-common's tokenizer: marks in a text are words to it, and it has no template."""

    chat_template = None

    def __init__(self, words: Any) -> None:
        self.words = words

    def __getattr__(self, name: str) -> Any:
        return getattr(self.words, name)

    def __call__(self, text: str, **options: Any) -> Any:
        assert not re.search(r"\[[A-Z_/]+\]|</?s>", text)
        return self.words(text, **options)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = tmp_path_factory.mktemp("voxtral")
    voxtral.build(folder)
    return load_model(folder)


def _text(model: Model, prompt: str, **options: Any) -> str:
    states = capture(model, audio=RECORDING, prompt=prompt, positions="all", layers=0, **options)
    return re.sub(
        r"(\[AUDIO\])+", lambda found: f"[AUDIO]x{len(found[0]) // 7}", model.tokenizer.decode(states.token_ids)
    )


def test_with_a_chat_template(model: Model) -> None:
    assert _text(model, "A cat?") == "<s><turn>user: [BEGIN_AUDIO][AUDIO]x12A cat?</turn><turn>assistant: "


def test_with_mistral_commons_tokenizer(model: Model) -> None:
    other = replace(model, tokenizer=MistralCommon(model.tokenizer))
    assert _text(other, "A cat?") == "<s>[INST][BEGIN_AUDIO][AUDIO]x12A cat?[/INST]"
    assert _text(other, "A cat?", raw=True) == "<s>[BEGIN_AUDIO][AUDIO]x12A cat?"
    written = "<s>[INST]Listen: [BEGIN_AUDIO][AUDIO] A cat?[/INST]"
    assert _text(other, written) == written.replace("[AUDIO]", "[AUDIO]x12")


def test_the_padding_has_tokens_behind_the_end(model: Model) -> None:
    states = capture(model, audio=RECORDING, layers=0)
    assert len(states) == 12
    assert [KINDS[kind] for kind in set(states.tokens.kinds.tolist())] == ["audio"]
    assert states.tokens.seconds[-1].tolist() == pytest.approx([0.87, 0.95])
