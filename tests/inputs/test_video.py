from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchlens.errors import ImageError
from patchlens.inputs.video import open_video

FILM = np.random.default_rng(0).integers(0, 255, (4, 20, 30, 3), dtype=np.uint8)


def test_arrays_and_lists() -> None:
    video = open_video((FILM, 2.0))
    assert (len(video.frames), video.fps, video.size, video.name) == (4, 2.0, (20, 30), "video")
    assert open_video(video) is video
    assert open_video((list(FILM), 2)).sha256 == video.sha256 != open_video((FILM, 3.0)).sha256


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    (folder := tmp_path / "walk").mkdir()
    for number, frame in enumerate(FILM):
        Image.fromarray(frame).save(folder / f"{number:04}.png")
    video = open_video(folder)
    assert (video.name, video.fps, len(video.frames)) == ("walk", 1.0, 4)
    assert video.frames[2].sha256 == open_video((FILM, 1.0)).frames[2].sha256


def test_an_animated_file(tmp_path: Path) -> None:
    frames = [Image.fromarray(frame) for frame in FILM]
    frames[0].save(tmp_path / "walk.png", save_all=True, append_images=frames[1:], duration=250)
    video = open_video(tmp_path / "walk.png")
    assert (video.name, len(video.frames)) == ("walk", 4)
    assert video.fps == pytest.approx(4.0)
    assert video.frames[3].sha256 == open_video((FILM, 1.0)).frames[3].sha256


def test_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"\0" * 100)
    for source, told in (
        (tmp_path / "none.gif", "no such file"),
        (tmp_path / "film.mp4", "ffmpeg"),
        ((FILM[:0], 1.0), "0 frames"),
        ((FILM, 0.0), "at 0 a second"),
        (([FILM[0], FILM[0, :10]], 1.0), "2 sizes"),
        ((np.zeros((4097, 2, 2, 3), np.uint8), 1.0), "more than 4096"),
    ):
        with pytest.raises(ImageError, match=told):
            open_video(source)
