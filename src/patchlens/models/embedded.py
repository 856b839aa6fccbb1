"""Models that ship inside installed packages, found by entry point. Knows none of them by name."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from patchlens.errors import ModelError

__all__ = ["GROUP", "Embedded", "embedded", "embedded_names"]

GROUP = "patchlens.embedded"
"""The entry point group; each entry names an `Embedded`."""


@dataclass(frozen=True)
class Embedded:
    """A model that needs no download: an ordinary Hugging Face folder and what to build its bank from."""

    name: str
    """What a person types in place of a folder."""

    folder: Path
    """The model's folder, as transformers saves it."""

    corpus: Callable[[], Iterable[str]]
    """Gives the sentences of its bank; called only when the bank is built."""

    bank: dict[str, Any]
    """Options for `build_bank`."""

    summary: str
    """One line for `patchlens models`."""

    examples: Path | None = None
    """Folder of pictures to try: `<name>.png`, and beside each what is true of it, `<name>.json` (see
    `evaluation.truth`). None: it ships none."""

    held_out: Callable[..., Iterable[Any]] | None = None
    """Called as `held_out(count, first)`: draws so many pictures that it was never trained on, from number `first` on,
    each a `Known` of `evaluation.truth`. None: it draws none."""

    lexicon: Callable[[], Mapping[str, str]] | None = None
    """Gives the class of every word of its sentences, in lower case: "noun", "proper noun", "verb", "adjective",
    "adverb", "function word" or "number". None: nobody has listed them."""


def embedded(name: str) -> Embedded | None:
    """Find an embedded model by name.

    Args:
        name: As a person typed it.

    Returns:
        The model, or None when no installed package offers that name.

    Raises:
        ModelError: A package offers the name but cannot be loaded, or offers something else.
    """
    for entry in entry_points(group=GROUP, name=name):
        try:
            found = entry.load()
        except Exception as error:
            raise ModelError(
                f"The embedded model '{name}' is offered by {entry.value!r}, which cannot be loaded "
                f"({error}). Install that package again."
            ) from error
        if not isinstance(found, Embedded):
            raise ModelError(
                f"The embedded model '{name}' is offered by {entry.value!r}, which is a "
                f"{type(found).__name__} and not an Embedded. Correct the entry point in group '{GROUP}'."
            )
        return found
    return None


def embedded_names() -> tuple[str, ...]:
    """List the names of all embedded models, sorted."""
    return tuple(sorted({entry.name for entry in entry_points(group=GROUP)}))
