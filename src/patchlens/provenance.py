"""How a saved thing was made: which model, which tokenizer, which versions, which settings.

Knows nothing of models or files: whoever saves a thing fills the record in, and whoever opens it compares.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from patchlens.errors import OptionError

__all__ = ["JSON", "Provenance"]

if TYPE_CHECKING:
    JSON = str | int | float | bool | None | list["JSON"] | dict[str, "JSON"]
else:
    JSON = object  # the run-time type checker of the tests cannot follow a type that contains itself


@dataclass(frozen=True)
class Provenance:
    """How a saved thing was made, in a form that can be compared and written down."""

    kind: str
    """What the thing is: "hidden states", "bank", "readings" …"""
    model: str
    """The model as it was asked for: an embedded name, a folder or a Hub id."""
    revision: str | None
    """The Hub revision (commit); None for folders and embedded models."""
    fingerprint: str
    """Fingerprint of the language model's weights: equal for a language model alone and inside a VLM."""
    tokenizer: str
    """Fingerprint of the tokenizer."""
    versions: dict[str, str]
    """Releases that took part: patchlens, torch, transformers."""
    settings: dict[str, JSON]
    """What the person chose: layers, prompt, seed …"""
    created: str | None = None
    """When, as ISO 8601 in UTC; None for things whose files are the same bytes each time (banks)."""

    def to_json(self) -> dict[str, JSON]:
        """The record as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Provenance":
        """Read a record back.

        Raises:
            OptionError: Fields are missing, unknown or of the wrong kind; the message names them.
        """
        known = {field.name for field in fields(cls)}
        missing = sorted(known - {"created"} - record.keys())
        unknown = sorted(record.keys() - known)
        wrong = sorted(name for name in known & record.keys() if not _fits(name, record[name]))
        if missing or unknown or wrong:
            found = [
                f"{what}: {', '.join(names)}"
                for what, names in (("missing", missing), ("unknown", unknown), ("of the wrong kind", wrong))
                if names
            ]
            raise OptionError(
                f"Reading a provenance record: {'; '.join(found)}. Expected {', '.join(sorted(known))}. "
                "The file was edited, or written by another release of patchlens; make it again."
            )
        return cls(**record)


def _fits(name: str, value: object) -> bool:
    match name:
        case "versions":
            return isinstance(value, dict) and all(isinstance(release, str) for release in value.values())
        case "settings":
            return isinstance(value, dict)
        case "revision" | "created":
            return value is None or isinstance(value, str)
        case _:
            return isinstance(value, str)
