"""A bank and hidden states of the tiny VLM, made once."""

import pytest
from PIL import Image

from patchlens.bank.bank import Bank
from patchlens.capture.hidden_states import HiddenStates


@pytest.fixture(scope="session")
def bank(tiny_llava: object, sentences: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Bank:
    from patchlens.bank.build import build_bank

    return build_bank(tiny_llava, sentences, tmp_path_factory.mktemp("bank") / "tiny", per_token=3)


@pytest.fixture(scope="session")
def states(tiny_llava: object, picture: Image.Image) -> HiddenStates:
    from patchlens.capture.capture import capture

    return capture(tiny_llava, picture)
