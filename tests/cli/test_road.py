import os
from pathlib import Path

from PIL import Image

from patchlens.cli.road import open_all


def test_pictures_of_one_name_are_numbered_as_they_will_be_called(tmp_path: Path) -> None:
    paths = [tmp_path / os.fsdecode(name) for name in (b"caf\xe9.png", b"caf\xe8.png", b"plain.png")]
    for path in paths:
        Image.new("RGB", (4, 4)).save(path)
    assert [image.name for image in open_all(paths)] == ["caf�", "caf� (2)", "plain"]
