"""What is really in every patch of an image, in words, where somebody knows it.

It does not know who knew it; drawn scenes do (`picturebook.truth`), and any data set with masks can.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path

from patchlens.errors import InputError
from patchlens.inputs.image import ImageInput
from patchlens.provenance import JSON
from patchlens.storage import write_json

__all__ = ["CaptionTruth", "Known", "PatchTruth", "SceneTruth", "Vocabulary", "open_truth"]

_VERSION = 1


@dataclass(frozen=True)
class PatchTruth:
    """The words that are true of one patch. All words are in lower case, with their plural forms."""

    on_object: bool
    """Whether something stands in the patch; otherwise it shows background."""
    thing: frozenset[str] = frozenset()
    """Nouns of what stands in it."""
    color: frozenset[str] = frozenset()
    """Colors of what stands in it."""
    word: frozenset[str] = frozenset()
    """Words written in it."""
    place: frozenset[str] = frozenset()
    """The place that the image shows, true of every patch."""
    kind: frozenset[str] = frozenset()
    """What the things in it are kinds of."""
    elsewhere: frozenset[str] = frozenset()
    """Things, colors, kinds and written words of other patches."""


@dataclass(frozen=True)
class SceneTruth:
    """The words that are true of one image, patch by patch."""

    image: str
    """The image's name, as in readings."""
    rows: int
    """Rows of the patch grid."""
    columns: int
    """Columns of the patch grid."""
    patches: tuple[PatchTruth, ...]
    """Row by row."""

    def at(self, row: int, column: int) -> PatchTruth:
        """The truth of one patch."""
        return self.patches[row * self.columns + column]

    def save(self, path: Path) -> None:
        """Write one JSON file; equal patches are written once."""
        distinct = list(dict.fromkeys(self.patches))
        write_json(
            path,
            {
                "format": _VERSION,
                "image": self.image,
                "rows": self.rows,
                "columns": self.columns,
                "distinct": [_to_json(patch) for patch in distinct],
                "patches": [distinct.index(patch) for patch in self.patches],
            },
        )


@dataclass(frozen=True)
class Vocabulary:
    """The words of a small world: whatever a description says beside them says nothing that could be wrong."""

    things: frozenset[str]
    """Nouns, in lower case and the singular."""
    colors: frozenset[str]
    """Color words."""
    places: frozenset[str]
    """Kinds of place."""


@dataclass(frozen=True)
class CaptionTruth:
    """What a description of an image should say."""

    things: tuple[tuple[str, str | None], ...]
    """Each thing in it, with its color where that is worth saying; two alike stand here twice."""
    place: str | None
    """The place that it shows."""
    written: tuple[str, ...]
    """Words that stand in it."""
    vocabulary: Vocabulary
    """Of the world that the image comes from."""


@dataclass(frozen=True)
class Known:
    """A picture of which all is known."""

    image: ImageInput
    """The picture, under the name that its truth has."""
    truth: SceneTruth
    """What is true patch by patch."""
    caption: CaptionTruth | None = None
    """What a description should say; None where nobody knows."""


def open_truth(path: Path) -> SceneTruth:
    """Open what `SceneTruth.save` wrote.

    Raises:
        InputError: The file is missing, is not such a file, or does not fit together.
    """
    try:
        record = json.loads(path.read_text("utf-8"))
        distinct = [_from_json(patch) for patch in record["distinct"]]
        patches = tuple(distinct[index] for index in record["patches"])
        truth = SceneTruth(record["image"], record["rows"], record["columns"], patches)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"{path} does not hold the truth of an image ({error}). Expected a file that SceneTruth.save wrote."
        ) from error
    if len(patches) != truth.rows * truth.columns:
        raise InputError(
            f"{path} speaks of {len(patches)} patches but of a grid of {truth.rows} × {truth.columns}. It was edited; "
            "save it again."
        )
    return truth


def _to_json(patch: PatchTruth) -> dict[str, JSON]:
    values = {field.name: getattr(patch, field.name) for field in fields(patch)}
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in values.items()}


def _from_json(record: dict[str, object]) -> PatchTruth:
    return PatchTruth(
        **{name: frozenset(value) if isinstance(value, list) else value for name, value in record.items()}  # type: ignore[arg-type]
    )
