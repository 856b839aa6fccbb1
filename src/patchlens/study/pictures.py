"""The pictures of a study, opened one batch at a time: a folder of large photographs does not fit into memory."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from patchlens.errors import OptionError, StudyError
from patchlens.evaluation.truth import Known, SceneTruth, open_truth
from patchlens.inputs.image import ImageInput, open_image
from patchlens.models.embedded import embedded
from patchlens.storage import readable
from patchlens.study.config import ImagesConfig

__all__ = ["Picture", "find_pictures", "references", "truths_of"]

_MOST_DRAWN = 20_000
_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True)
class Picture:
    """One picture that can be opened again and again."""

    name: str
    """As the records call it; no two pictures of a study have the same."""
    key: str
    """Hash of its content, so that records of a picture that was changed are not taken for its own."""
    open: Callable[[], ImageInput]
    """Reads it from where it is."""
    truth: Callable[[], SceneTruth] | None = None
    """Gives what is true of its patches; None where nobody knows."""
    known: Known | None = None
    """All that is known of it, for pictures that were drawn."""


def find_pictures(config: ImagesConfig) -> list[Picture]:
    """List a study's pictures; those of a folder by name, each with its truth if a .json of its name lies beside it.

    Raises:
        OptionError: There is no such folder, file or embedded model, or it has no pictures.
    """
    if config.embedded is not None:
        return list(_drawn(config.embedded, config.count, config.first))
    paths = [Path(path) for path in config.files] if config.files else _in_folder(Path(config.folder or "."))
    chosen = paths[config.first :][: config.count]
    if not chosen:
        raise OptionError(
            f"The study has no pictures: {config.folder or 'its list of files'} has {len(paths)}, of which those from "
            f"number {config.first} on were asked for. Give a folder of {', '.join(_ENDINGS)} files."
        )
    names = _names(chosen)
    return [_from_file(path, name) for path, name in zip(chosen, names, strict=True)]


def truths_of(pictures: Sequence[Picture]) -> dict[str, SceneTruth]:
    """What is true of the patches of those pictures of which anything is known, by name.

    Raises:
        InputError: What lies beside a picture is no truth.
    """
    return {picture.name: picture.truth() for picture in pictures if picture.truth is not None}


def references(path: Path) -> dict[str, str]:
    """Captions that people wrote, by picture: one JSON object per line with "image" and "caption".

    Raises:
        OptionError: The file cannot be read, or a line is something else.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"Reading the captions {path} failed ({error}). Give a text file in UTF-8.") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record: Any = json.loads(line)
            found[str(record["image"])] = str(record["caption"])
        except (ValueError, KeyError, TypeError) as error:
            raise OptionError(
                f'Line {number} of the captions {path} is not like {{"image": "name", "caption": "text"}}. Correct it.'
            ) from error
    return found


def _drawn(name: str, count: int | None, first: int) -> Iterator[Picture]:
    member = embedded(name)
    if member is None or member.held_out is None:
        raise OptionError(
            f"There is no embedded model called {name!r} that draws pictures of its own. Give a folder of pictures."
        )
    if count is not None and count > _MOST_DRAWN:
        raise OptionError(
            f"The study asks {name!r} to draw {count:,} pictures, which are all kept in memory. Ask for at most "
            f"{_MOST_DRAWN:,}."
        )
    for known in member.held_out(300 if count is None else count, first):
        image = known.image
        yield Picture(image.name, image.sha256, partial(_same, image), partial(_same, known.truth), known)


def _same(value: Any) -> Any:
    return value


def _in_folder(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix.lower() in _ENDINGS and path.is_file())
    except OSError as error:
        raise OptionError(
            f"Looking for the study's pictures in {folder} failed: {error.strerror}. Name a folder of pictures."
        ) from error


def _names(paths: Sequence[Path]) -> list[str]:
    """The files' names without ending; with it where two would be alike."""
    stems = [path.stem for path in paths]
    names = [path.stem if stems.count(path.stem) == 1 else path.name for path in paths]
    if twice := [name for name in names if names.count(name) > 1]:
        raise StudyError(
            f"Two pictures of the study are called {twice[0]!r}. Give every picture a name of its own: records know "
            "them by name."
        )
    return names


def _from_file(path: Path, name: str) -> Picture:
    beside = path.with_name(f"{name}.json")  # of two that differ in their ending alone each has its own
    truth = partial(_truth_of, beside, name) if beside.is_file() else None
    with readable(path):
        key = hashlib.sha256(f"{name}:".encode() + path.read_bytes()).hexdigest()
    return Picture(name, key, partial(open_image, path, name=name), truth)


def _truth_of(path: Path, name: str) -> SceneTruth:
    truth = open_truth(path)
    return SceneTruth(name, truth.rows, truth.columns, truth.patches)
