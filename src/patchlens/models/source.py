"""Where a model comes from, and what its config.json says; failures underneath become ours."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from patchlens.errors import ModelIncomplete, ModelNotFound, OptionError, PatchlensError
from patchlens.models.embedded import embedded, embedded_names
from patchlens.models.quiet import quiet

__all__ = ["Source", "find_source", "first_line", "loading_of", "read_config"]

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


@dataclass(frozen=True)
class Source:
    """Where a model comes from."""

    name: str
    """As the person wrote it."""

    place: str
    """What transformers is given: a folder or a Hub id."""

    local: bool
    """On this disk."""


def find_source(model: str | Path, revision: str | None) -> Source:
    """Find an embedded model, a folder or a Hub id by what a person wrote.

    Raises:
        ModelNotFound: It is none of these.
        OptionError: A revision of something that has none.
    """
    name = str(model)
    found = embedded(name) if isinstance(model, str) else None
    folder = found.folder if found else Path(os.path.expanduser(name))
    # os.path says no where Path raises: names too long, parents that may not be entered, unknown users.
    local = found is not None or os.path.exists(folder)
    if local and revision is not None:
        raise OptionError(
            f"Cannot load revision '{revision}' of {name}: it is on this disk, and only models on the Hub "
            "have revisions. Leave the revision out."
        )
    if local and not os.path.isdir(folder):
        raise ModelNotFound(
            f"Loading {name}: {folder} is not a folder. Give the folder that holds config.json and the weights."
        )
    if not local and (isinstance(model, Path) or not _HUB_ID.fullmatch(name)):
        raise ModelNotFound(
            f"Loading {name}: there is no such folder, and it cannot be a Hub id. Check the path; {_embedded_hint()}"
        )
    return Source(name, str(folder) if local else name, local)


def _embedded_hint() -> str:
    names = ", ".join(f"'{name}'" for name in embedded_names())
    return f"models that need no download: {names or 'none installed'}."


@contextmanager
def loading_of(part: str, source: Source) -> Iterator[None]:
    """Run quietly; whatever the libraries underneath raise becomes ModelIncomplete with its first line."""
    try:
        with quiet():
            yield
    except PatchlensError:
        raise
    except Exception as error:
        raise ModelIncomplete(
            f"Loading the {part} of {source.name} failed: {first_line(error)} Files are missing, damaged or "
            f"of another release; {'save or copy the folder' if source.local else 'download the model'} "
            "again."
        ) from error


def read_config(source: Source, revision: str | None) -> dict[str, Any]:
    """The fields of config.json.

    Raises:
        ModelNotFound: The Hub gave none.
        ModelIncomplete: It is missing or cannot be read.
    """
    if source.local and not os.path.isfile(Path(source.place) / "config.json"):
        raise ModelIncomplete(
            f"Loading {source.name}: the folder holds no config.json. Give a folder as transformers saves "
            "it, with config.json, the weights and the tokenizer."
        )
    try:
        with quiet():
            fields, _ = PreTrainedConfig.get_config_dict(source.place, revision=revision)
        return dict(fields)
    except Exception as error:
        if source.local:
            raise ModelIncomplete(
                f"Loading {source.name}: its config.json cannot be read: {first_line(error)} Copy or "
                "download the file again."
            ) from error
        raise ModelNotFound(
            f"Loading {source.name}: it is no embedded model and no folder here, and the Hub gave nothing: "
            f"{first_line(error)} Check the name, the network and your access; {_embedded_hint()}"
        ) from error


def first_line(error: Exception) -> str:
    """The first line of what an error says, ended by a full stop."""
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return line if line.endswith(".") else f"{line}."
