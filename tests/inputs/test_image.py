import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchlens.errors import ImageError
from patchlens.inputs.image import ImageInput, open_image

RED, WHITE = (255, 0, 0), (255, 255, 255)


def _marked(mode: str = "RGB") -> Image.Image:
    """6 × 4, blue with a red top-left corner, so that turning it shows."""
    image = Image.new("RGB", (6, 4), (0, 0, 255))
    image.putpixel((0, 0), RED)
    return image.convert(mode)


def _pixels(source: object) -> np.ndarray:
    return np.asarray(open_image(source).pixels)


def test_a_file_keeps_its_pixels_name_and_source(tmp_path: Path) -> None:
    path = tmp_path / "kitchen table.png"
    _marked().save(path)
    opened = open_image(path)
    assert np.array_equal(np.asarray(opened.pixels), np.asarray(_marked()))
    assert (opened.name, opened.source, opened.size) == ("kitchen table", str(path), (4, 6))
    assert open_image(str(path)) == opened
    assert open_image(path, name="kitchen").name == "kitchen"


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    _marked().save(path)
    opened = open_image(path)
    assert (opened.name, opened.source) == ("caf�", str(tmp_path / "caf�.png"))
    assert open_image(opened, name=path.stem).name == "caf�"


def test_the_hash_is_of_the_pixels_not_of_the_file(tmp_path: Path) -> None:
    for ending in ("png", "bmp"):
        _marked().save(tmp_path / f"a.{ending}")
    hashes = {open_image(path).sha256 for path in tmp_path.iterdir()} | {open_image(_marked()).sha256}
    assert len(hashes) == 1
    assert open_image(_marked().rotate(180)).sha256 not in hashes
    # The same bytes in another shape are another image.
    assert open_image(np.zeros((2, 6, 3), np.uint8)).sha256 != open_image(np.zeros((3, 4, 3), np.uint8)).sha256


def test_an_opened_image_passes_through_and_can_be_renamed() -> None:
    opened = open_image(_marked())
    assert open_image(opened) is opened
    assert open_image(opened, name="other") == ImageInput(opened.pixels, "other", None, opened.sha256)


def test_the_callers_image_is_not_the_one_that_is_kept() -> None:
    image = _marked()
    opened = open_image(image)
    image.putpixel((0, 0), WHITE)
    assert opened.pixels.getpixel((0, 0)) == RED


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(tmp_path: Path, orientation: int) -> None:
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = _marked() if undo is None else _marked().transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    opened = open_image(tmp_path / "turned.png")
    assert opened.sha256 == open_image(_marked()).sha256


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame(tmp_path: Path, ending: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if ending == "webp" else {}
    path = tmp_path / f"moving.{ending}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50, **options)
    with Image.open(path) as saved:
        assert saved.n_frames == 3
    assert (_pixels(path) == RED).all()


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=100)
    assert np.abs(_pixels(tmp_path / "print.jpg").astype(int) - RED).max() <= 4


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_alpha_lies_over_white(mode: str) -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0)).convert(mode)
    assert (_pixels(clear) == WHITE).all()
    half = _pixels(Image.new("RGBA", (4, 4), (0, 0, 0, 128)))
    assert abs(int(half[0, 0, 0]) - 127) <= 1


def test_a_transparent_palette_colour_lies_over_white(tmp_path: Path) -> None:
    image = _marked("P")
    image.save(tmp_path / "a.gif", transparency=image.getpixel((0, 0)))
    assert tuple(_pixels(tmp_path / "a.gif")[0, 0]) == WHITE


def test_grey_one_bit_and_palette() -> None:
    assert (_pixels(Image.new("L", (4, 4), 77)) == 77).all()
    assert (_pixels(Image.new("1", (4, 4), 1)) == 255).all()
    assert np.array_equal(_pixels(_marked("P")), np.asarray(_marked()))


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "deep.png")
    expected = np.rint(values / 257)[..., None].repeat(3, axis=2)
    for source in (tmp_path / "deep.png", values, values[..., None], values.astype(">u2")):
        assert np.array_equal(_pixels(source), expected)


def test_arrays_of_other_kinds() -> None:
    assert (_pixels(np.full((4, 4, 3), 0.5)) == 128).all()
    assert (_pixels(np.full((4, 4), 200.0, np.float32)) == 200).all()
    assert (_pixels(np.ones((4, 4), bool)) == 255).all()
    assert (_pixels(np.full((4, 4), 200)) == 200).all()
    assert (_pixels(np.full((4, 4), 200, np.uint16)) == 1).all()
    assert (_pixels(np.full((4, 4), 200, ">u2")) == 1).all()
    assert (_pixels(np.zeros((4, 4, 4), np.uint8)) == WHITE).all()


def test_floats_that_may_be_of_either_range() -> None:
    with pytest.raises(ImageError, match=r"to 1\.02 as an image.*from 0 to 255.*could be either"):
        open_image(np.full((4, 4), 1.02))
    assert (_pixels(np.full((4, 4), 2.0)) == 2).all()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 8, 8), np.uint8),
        np.zeros(8, np.uint8),
        np.zeros((8, 8, 2), np.uint8),
        np.full((8, 8), -1),
        np.full((8, 8), np.nan),
        np.full((8, 8), 1e9),
        np.zeros((8, 8), complex),
        np.array([["a", "b"], ["c", "d"]]),
    ],
)
def test_arrays_that_are_no_images(array: np.ndarray) -> None:
    with pytest.raises(ImageError, match="Cannot use an array"):
        open_image(array)


@pytest.mark.parametrize(
    "source",
    [Image.new("RGB", (0, 0)), Image.new("RGB", (1, 1)), Image.new("RGB", (1, 50)), Image.new("L", (50, 1))],
)
def test_too_small(source: Image.Image) -> None:
    with pytest.raises(ImageError, match="at least 2 × 2"):
        open_image(source)


@pytest.mark.parametrize("shape", [(0, 0), (0, 0, 3), (0, 8, 3)])
def test_empty_arrays(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="no pixels"):
        open_image(np.zeros(shape, np.uint8))


def test_one_by_one_array() -> None:
    with pytest.raises(ImageError, match="1 × 1"):
        open_image(np.zeros((1, 1, 3), np.uint8))


def test_missing_folder_and_empty_path(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        open_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="folder"):
        open_image(tmp_path)
    with pytest.raises(ImageError, match="damaged"):
        open_image("a\0b.png")


@pytest.mark.parametrize("content", [b"", b"hello, I am text", b"\x89PNG\r\n\x1a\n", b"GIF89a", bytes(range(256)) * 8])
def test_not_an_image(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.png"):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "tiff", "bmp"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_cut_short(tmp_path: Path, ending: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"a.{ending}"
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ImageError, match="damaged or cut short"):
        open_image(path)


@pytest.mark.parametrize("side", [10_001, 20_000, 65_000])
def test_a_decompression_bomb_is_refused_from_its_header(tmp_path: Path, side: int) -> None:
    """A header that promises millions of pixels and holds none: decoding it would be another error."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    with pytest.raises(ImageError, match="100 million pixels"):
        open_image(tmp_path / "bomb.png")
