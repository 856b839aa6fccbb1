import io

import numpy as np
import pyarrow as pa
import pytest
from rich.cells import cell_len
from rich.console import Console

from lenses import synthetic
from patchlens.errors import OptionError
from patchlens.lenses.reading import Readings
from patchlens.models.patch_grid import PatchGrid
from patchlens.models.tile import Tile
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


def test_images_read_at_different_layers() -> None:
    parts = [synthetic.readings(name, layers=layers, lenses=("logit",)) for name, layers in (("a", (1,)), ("b", (2,)))]
    joined = Readings.join(parts)
    text = drawn(joined, layers=1)
    assert "and 1 image read at other layers" in text
    assert [line.strip() for line in text.splitlines()].count("a") == 1
    assert [line.strip() for line in text.splitlines()].count("b") == 0
    both = [line.strip() for line in drawn(joined, layers=iter([1, 2])).splitlines()]
    assert (both.count("a"), both.count("b")) == (1, 1)
    with pytest.raises(OptionError, match=r"layer 1 .* They hold: 2"):
        drawn(joined, image="b", layers=1)


@pytest.fixture(scope="module")
def tiled() -> Readings:
    """Twelve patches: a tile of 2 × 4, and a tile of 2 × 2 behind it."""
    scene = synthetic.readings(rows=3, columns=4, layers=(0,), lenses=("logit",))
    table = scene.table
    patches = table["position"].to_numpy() - 5
    second = patches >= 8
    within, columns = np.where(second, patches - 8, patches), np.where(second, 2, 4)
    for name, values in (("tile", second), ("row", within // columns), ("column", within % columns)):
        table = table.set_column(table.column_names.index(name), name, pa.array(values.astype(np.int32)))
    whole = (0.0, 0.0, 64.0, 96.0)
    tiles = [Tile(PatchGrid(2, count, (64, 96), whole), "tile") for count in (4, 2)]
    return Readings(table, images=scene.images, tiles={"scene": tiles})


def test_patches_of_an_image_in_tiles(tiled: Readings) -> None:
    text = drawn(tiled, patches=[(1, 0, 1), (0, 0, 1), (1, 3)])
    assert "tile: row, col" in text
    for label, position in (("1: 0, 1", 14), ("0: 0, 1", 6), ("0: 1, 3", 12)):
        (line,) = [line for line in text.splitlines() if line.strip().startswith(label)]
        assert tiled.at(position=position).words[0] in line
    assert "2, 3" in drawn(synthetic.readings(), patches=[(0, 2, 3)])


@pytest.mark.parametrize(
    ("patch", "told"),
    [
        ((0, 1), r"Tiles 0, 1 all have a patch at row 0, column 1.*0 \(2 × 4\), 1 \(2 × 2\).*\(tile, row, column\)"),
        ((1, 0, 3), r"at tile 1, row 0, column 3.*0 \(2 × 4\), 1 \(2 × 2\)"),
        ((5, 5), r"at row 5, column 5.*the tiles 0 \(2 × 4\), 1 \(2 × 2\)"),
    ],
)
def test_patches_that_tiles_do_not_have_or_several_have(tiled: Readings, patch: tuple[int, ...], told: str) -> None:
    with pytest.raises(OptionError, match=told):
        drawn(tiled, patches=[patch])


def test_text_and_nothing() -> None:
    assert "position" in drawn(synthetic.text_readings())
    with pytest.raises(OptionError, match="it has no grid"):
        drawn(synthetic.text_readings(), patches=[(0, 0)])
    assert "0 of 0 images" in drawn(synthetic.readings().select(word="nobody"))


def test_what_was_not_read() -> None:
    scene = synthetic.readings()
    with pytest.raises(OptionError, match=r"row 9.*4 × 6"):
        drawn(scene, patches=[(9, 0)])
    with pytest.raises(OptionError, match="layer 7"):
        drawn(scene, layers=[7])
    with pytest.raises(OptionError, match="kitchen"):
        drawn(scene, image="kitchen")
