"""Any moving picture a person has, as upright RGB frames of one size. Knows no model, and decodes no film."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, SupportsFloat, TypeAlias

import numpy as np
from PIL import Image

from patchlens.errors import ImageError
from patchlens.inputs.image import ImageInput, ImageLike, open_image

__all__ = ["VideoInput", "VideoLike", "open_video"]

_MOST = 4096
"""Frames. Models see far fewer, and each is held in memory."""


@dataclass(frozen=True)
class VideoInput:
    """A moving picture as patchlens uses it; two are equal when name, source, speed and frames are."""

    frames: tuple[ImageInput, ...] = field(repr=False, compare=False)
    """In order, all of one size."""

    fps: float
    """Frames a second."""

    name: str
    """The file's or folder's name without its ending, or "video"."""

    source: str | None
    """The path it was read from; None for one given in memory."""

    sha256: str
    """Of the speed and all frames."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of each frame, in pixels."""
        return self.frames[0].size


VideoLike: TypeAlias = str | Path | tuple[Sequence[Any] | np.ndarray, SupportsFloat] | VideoInput
"""What `open_video` takes."""


def open_video(source: VideoLike, name: str | None = None) -> VideoInput:
    """Read a moving picture.

    Args:
        source: An animated GIF, WebP or PNG file; a folder of pictures, in the order of their names, one a second; or
            (frames, fps): an array of [frame, height, width, 3] or a list of what `open_image` takes.
        name: What to call it; by default the file's or folder's name without its ending, or "video".

    Raises:
        ImageError: It is missing, damaged or empty, its frames differ in size, or a film that must be decoded first.
    """
    if isinstance(source, VideoInput):
        return source
    if isinstance(source, tuple):
        frames, fps = source
        return _input(list(frames), float(fps), name or "video", None)
    path = Path(source)
    shown = name or os.fsencode(path.stem).decode("utf-8", "replace")
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        return _input(list(files), 1.0, shown, str(path))
    try:
        with Image.open(path) as film:
            frames, milliseconds = [], 0.0
            for number in range(min(getattr(film, "n_frames", 1), _MOST + 1)):
                film.seek(number)
                frames.append(film.copy())
                milliseconds += float(film.info.get("duration", 0) or 100)
    except FileNotFoundError as error:
        raise ImageError(f"Opening video '{path}': there is no such file. Check the path.") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageError(
            f"Opening video '{path}': it is damaged, or a film that must be decoded first ({error}). Give its frames: "
            "ffmpeg -i FILM -vf fps=2 FOLDER/%04d.png, and then the folder."
        ) from error
    return _input(frames, 1000 * len(frames) / milliseconds, shown, str(path))


def _input(frames: Sequence[ImageLike], fps: float, name: str, source: str | None) -> VideoInput:
    if not frames or not 0 < fps < 1000:
        raise ImageError(f"The video '{name}' has {len(frames)} frames at {fps:g} a second. Give at least one frame.")
    if len(frames) > _MOST:
        raise ImageError(
            f"The video '{name}' has more than {_MOST} frames. Take fewer: models see some hundred at most."
        )
    opened = tuple(open_image(frame) for frame in frames)
    sizes = {frame.size for frame in opened}
    if len(sizes) > 1:
        raise ImageError(
            f"The frames of the video '{name}' have {len(sizes)} sizes, {min(sizes)} and {max(sizes)} among them."
        )
    digest = hashlib.sha256(f"{fps}:".encode() + "".join(frame.sha256 for frame in opened).encode()).hexdigest()
    return VideoInput(opened, fps, name, source, digest)
