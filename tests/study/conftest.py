"""A small study: five pictures, a tiny random LLaVA, its bank."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchlens.study.config import StudyConfig, parse_study

FILE = """
[study]
title = "small"
batch = 2
survey = 3
layers = [0, 2, 4]
[images]
folder = "{pictures}"
[[models]]
name = "{model}"
label = "tiny"
bank = "{bank}"
[[lenses]]
lens = "latent"
[[lenses]]
lens = "logit"
[[lenses]]
lens = "embedding"
layers = [2]
[[lenses]]
lens = "latent"
label = "half"
group = "bank size"
share = 0.5
"""


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(5):
        small = rng.integers(0, 255, (6, 9, 3), dtype=np.uint8)
        Image.fromarray(small).resize((90, 60)).save(folder / f"picture-{number}.png")
    return folder


@pytest.fixture(scope="session")
def bank_folder(
    llava_folder: Callable[..., Path], sentences: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    from patchlens.bank.build import build_bank

    return build_bank(llava_folder(), sentences, tmp_path_factory.mktemp("bank") / "tiny", per_token=3).folder


@pytest.fixture(scope="session")
def config(llava_folder: Callable[..., Path], pictures: Path, bank_folder: Path) -> StudyConfig:
    text = FILE.format(pictures=pictures, model=llava_folder(), bank=bank_folder)
    return parse_study(text, pictures)
