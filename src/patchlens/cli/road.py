"""What `demo` and `read` share: pictures and a model in, a folder with readings and a page out."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchlens.errors import OptionError
from patchlens.progress import Report

if TYPE_CHECKING:
    from patchlens.bank.bank import Bank
    from patchlens.inputs.image import ImageInput
    from patchlens.lenses.reading import Readings
    from patchlens.models.model import Model

__all__ = ["MARKER", "Result", "check_k", "lens_names", "open_images", "read_images", "save"]

MARKER = "readings.json"
"""The file by which a folder of readings is known; only such a folder is ever overwritten."""


@dataclass(frozen=True)
class Result:
    """What was read, and with what."""

    readings: "Readings"
    bank: "Bank | None"


def lens_names(text: str) -> tuple[str, ...]:
    """The lenses named in a list with commas, each once.

    Raises:
        OptionError: One of them does not exist, or none was named.
    """
    from patchlens.lenses.registry import LENSES

    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if unknown := [name for name in names if name not in LENSES]:
        raise OptionError(f"There is no lens called {unknown[0]!r}. Known: {', '.join(LENSES)}.")
    if not names:
        raise OptionError(f"No lens was named. Name one or several of {', '.join(LENSES)}, with commas between.")
    return names


def check_k(k: int) -> None:
    """Refuse a number of candidates below 1 before anything is loaded.

    Raises:
        OptionError: It is.
    """
    if k < 1:
        raise OptionError(f"Reading was asked for {k} candidates per visual token. Ask for at least 1.")


def open_images(paths: Sequence[Path]) -> "list[ImageInput]":
    """Open all pictures before anything slow begins; two of one name get a number each.

    Raises:
        ImageError: One of them cannot be used.
    """
    from patchlens.inputs.image import open_image

    opened: list[ImageInput] = []
    taken: set[str] = set()
    for path in paths:
        stem = os.fsencode(path.stem).decode("utf-8", "replace")  # as `open_image` does, before names are compared
        name, number = stem, 1
        while name in taken:
            number += 1
            name = f"{stem} ({number})"
        taken.add(name)
        opened.append(open_image(path, name=name))
    return opened


def read_images(
    images: "Sequence[ImageInput]",
    load: "Callable[[], Model]",
    *,
    bank: str | None,
    lenses: Sequence[str],
    layers: str,
    k: int,
    prompt: str | None,
    allow_other_model: bool,
    report: Report,
) -> Result:
    """Read every visual token of the pictures with each lens.

    Args:
        images: What to read.
        load: Gives the model; called after the bank was opened, which fails sooner.
        bank: Folder or embedded name, needed by the latent lens alone.
        lenses: Names of lenses.
        layers: As `resolve_layers` takes them.
        k: Candidates per token, layer and lens.
        prompt: None for `capture`'s own.
        allow_other_model: Use the bank of another language model of the same width.
        report: Told of every stage.

    Raises:
        PatchlensError: As opening the bank, loading, capturing and reading do.
    """
    from patchlens.bank.bank import open_bank
    from patchlens.capture.capture import capture
    from patchlens.lenses.reading import Readings
    from patchlens.lenses.registry import make_lens

    opened = None if bank is None or "latent" not in lenses else open_bank(bank, report=report)
    report("Loading the model", 0, 1)
    model = load()
    report("Loading the model", 1, 1)
    made = [make_lens(name, model, opened, allow_other_model=allow_other_model) for name in lenses]
    if opened is not None:
        # Before the first picture is run, not after it.
        opened.check(model.fingerprint, model.d_model, allow_other_model=allow_other_model, model=model.name)
    parts: list[Readings] = []
    total = len(images) * len(made)
    asked: dict[str, Any] = {} if prompt is None else {"prompt": prompt}
    report("Reading", 0, total)
    for image in images:
        states = capture(model, image, layers=layers, **asked)
        for lens in made:
            parts.append(lens.read(states, k=k))
            report("Reading", len(parts), total)
    return Result(Readings.join(parts), opened)


def save(readings: "Readings", folder: Path, title: str | None = None) -> None:
    """Write the readings and their page into a folder that is still in the making."""
    from patchlens.views.page import write_page

    readings.save(folder)
    write_page(readings, folder / "page.html", title=title)
