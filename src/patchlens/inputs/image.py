"""Any image a person has, as upright RGB pixels. Knows no model and no processor."""

import hashlib
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from patchlens.errors import ImageError

__all__ = ["MAX_PIXELS", "ImageInput", "ImageLike", "open_image"]

MAX_PIXELS = 100_000_000
"""An image with more pixels than this is refused before it is decoded; one of them in RGB takes 300 MB."""

_RANGES = (
    "integers from 0 to 255, 16-bit integers from 0 to 65535, or floats from 0 to 1 or from 0 to 255 (whose largest "
    "is not between 1 and 2, which could be either)"
)

_MIN_SIDE = 2
"""Pixels. A single row or column has no second patch, and image processors guess channel order from it."""


@dataclass(frozen=True)
class ImageInput:
    """An image as patchlens uses it; two are equal when name, source and pixels are."""

    pixels: Image.Image = field(repr=False, compare=False)
    """RGB, upright."""

    name: str
    """The file's name without its ending, or "image"."""

    source: str | None
    """The path it was read from; None for one given in memory."""

    sha256: str
    """Of the size and the RGB pixels, so it does not depend on the file format."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.height, self.pixels.width


ImageLike: TypeAlias = str | Path | Image.Image | np.ndarray | ImageInput
"""What `open_image` takes."""


def open_image(source: ImageLike, name: str | None = None) -> ImageInput:
    """Read an image and make it upright RGB.

    EXIF rotation is applied, of an animated file the first frame is taken, transparency is laid over white,
    16-bit channels are scaled to 8.

    Args:
        source: A path, a Pillow image, or an array of height × width (× 1, 3 or 4 channels): integers
            from 0 to 255, 16-bit integers, booleans, or floats from 0 to 1 or from 0 to 255.
        name: What to call it; by default the file's name without its ending, or "image". Bytes of a file's name
            that are not UTF-8 become "�".

    Returns:
        The image with its name, source and hash.

    Raises:
        ImageError: It is missing, cut short, not an image, smaller than 2 × 2, or larger than 100 million
            pixels.
    """
    if isinstance(source, ImageInput):
        return source if name is None else replace(source, name=_readable(name))
    if isinstance(source, str | Path):
        path = Path(source)
        with _reading(f"image '{path}'"), Image.open(path) as image:
            return _input(image, f"image '{path}'", name or path.stem, str(path))
    if isinstance(source, np.ndarray):
        with _reading("the image array"):
            return _input(_from_array(source), "the image array", name or "image", None)
    if isinstance(source, Image.Image):
        with _reading("the image"):
            return _input(source, "the image", name or "image", None)
    raise ImageError(f"Cannot use a {type(source).__name__} as an image. Give a path, a Pillow image or a NumPy array.")


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Translate what Pillow raises for missing, foreign, broken and oversized files."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images, for which we have a limit of our own, and of odd metadata.
            warnings.simplefilter("ignore")
            yield
    except FileNotFoundError as error:
        raise ImageError(f"Opening {what}: there is no such file. Check the path.") from error
    except IsADirectoryError as error:
        raise ImageError(f"Opening {what}: this is a folder. Give the path of one image file.") from error
    except PermissionError as error:
        raise ImageError(f"Opening {what}: permission denied. Make the file readable, or copy it.") from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"Opening {what}: this is not an image in a known format. Give a PNG, JPEG, WebP, GIF, TIFF or BMP file."
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"Opening {what}: {_too_large()} ({error})") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, OverflowError) as error:
        raise ImageError(
            f"Opening {what}: the file is damaged or cut short ({error}). Copy or export it again."
        ) from error


def _input(image: Image.Image, what: str, name: str, source: str | None) -> ImageInput:
    _check_size(image, what)
    image.load()
    pixels = _to_rgb(ImageOps.exif_transpose(image))
    digest = hashlib.sha256(f"{pixels.width}x{pixels.height}:".encode() + pixels.tobytes()).hexdigest()
    return ImageInput(pixels, _readable(name), source and _readable(source), digest)


def _readable(name: str) -> str:
    """Without the surrogates that stand for bytes of a file's name: tables and pages can hold none."""
    return os.fsencode(name).decode("utf-8", "replace")


def _check_size(image: Image.Image, what: str) -> None:
    """Judge the size from the header: decoding is what a decompression bomb wants."""
    width, height = image.size
    if width < _MIN_SIDE or height < _MIN_SIDE:
        raise ImageError(
            f"Opening {what}: it has {width} × {height} pixels, which leaves nothing to look at. "
            f"Give one of at least {_MIN_SIDE} × {_MIN_SIDE}."
        )
    if width * height > MAX_PIXELS:
        raise ImageError(f"Opening {what}: {_too_large()} It has {width} × {height}.")


def _too_large() -> str:
    return f"it has more than {MAX_PIXELS // 1_000_000} million pixels. Scale it down; models see far fewer."


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _from_array(np.asarray(image)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        opaque = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(opaque, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _from_array(array: np.ndarray) -> Image.Image:
    values = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    channels = values.shape[2] if values.ndim == 3 else 1
    if values.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise ImageError(
            f"Cannot use an array of shape {array.shape} as an image. Expected height × width, or height × "
            "width × channels with 1, 3 or 4 channels; move the channel axis last."
        )
    if 0 in values.shape:
        raise ImageError(f"Cannot use an array of shape {array.shape} as an image: it has no pixels.")
    return Image.fromarray(_to_bytes(values))


def _to_bytes(values: np.ndarray) -> np.ndarray:
    """Scale to 0-255.

    Only 16 bits without a sign say that they are all used; of other wide integers and of floats the values tell.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind not in "uif":
        raise ImageError(f"Cannot use an array of {values.dtype} as an image. Expected numbers: {_RANGES}.")
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind == "f":
        limit = 1.0 if high < 2 else 255.0  # slightly above 1 is a slip of resampling, not a black image
    else:
        sixteen = (values.dtype.kind, values.dtype.itemsize) == ("u", 2)  # in either byte order
        limit = 65535.0 if sixteen or high > 255 else 255.0
    if not 0 <= low <= high <= limit:  # NaN fails every comparison
        raise ImageError(
            f"Cannot use an array of {values.dtype} with values from {low:g} to {high:g} as an image. "
            f"Expected {_RANGES}."
        )
    return np.rint(values / limit * 255).astype(np.uint8)
