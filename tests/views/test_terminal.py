import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from lenses import synthetic
from patchlens.errors import OptionError
from patchlens.lenses.reading import Readings
from patchlens.views.terminal import table


def drawn(readings: Readings, width: int = 80, **options: object) -> str:
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(table(readings, **options))  # type: ignore[arg-type]
    return file.getvalue()


def test_readable_at_80_columns() -> None:
    text = drawn(synthetic.readings(layers=tuple(range(33))))
    lines = text.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert any("row, col" in line and "LatentLens" in line and "EmbeddingLens" in line for line in lines)
    assert len([line for line in lines if line.strip()]) < 30
    assert "…" not in text


def test_the_patches_and_layers_asked_for() -> None:
    scene = synthetic.readings()
    text = drawn(scene, patches=[(2, 3)], layers=[1], words=2)
    (row,) = [line.split() for line in text.splitlines() if line.strip().startswith("2, 3")]
    assert row == ["2,", "3", "1", "dog,", "Grass", "Grass,", "sky", "sky,", "house"]


def test_wide_characters_keep_columns_straight() -> None:
    scene = synthetic.readings(words=("日本語の長い言葉です", "dog", "한국어", "e\u0301te\u0301"), layers=(0, 1))
    lines = drawn(scene, patches=[(0, 0), (0, 1), (0, 2)]).splitlines()
    assert all(cell_len(line) <= 80 for line in lines)
    starts = {cell_len(line[: line.index("dog")]) for line in lines if line.count("dog") == 1 and "日" not in line}
    assert len(starts) <= 3


def test_nothing_hostile_reaches_the_terminal() -> None:
    text = drawn(synthetic.readings("a\x1b]0;b", words=("\x1b[2Jgone", "[red]markup[/red]", "c\u202ed"), layers=(0,)))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[red]markup" in text


def test_several_images() -> None:
    many = Readings.join([synthetic.readings(f"scene {i}", lenses=("logit",)) for i in range(5)])
    text = drawn(many)
    assert "scene 2" in text
    assert "scene 3" not in text
    assert "and 2 more images" in text
    assert "scene 3" in drawn(many, image="scene 3")


def test_text_and_nothing() -> None:
    assert "position" in drawn(synthetic.text_readings())
    assert "0 of 0 images" in drawn(synthetic.readings().select(word="nobody"))


def test_what_was_not_read() -> None:
    scene = synthetic.readings()
    with pytest.raises(OptionError, match=r"row 9.*4 × 6"):
        drawn(scene, patches=[(9, 0)])
    with pytest.raises(OptionError, match="layer 7"):
        drawn(scene, layers=[7])
    with pytest.raises(OptionError, match="kitchen"):
        drawn(scene, image="kitchen")
