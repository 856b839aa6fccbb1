"""What `demo` and `read` share: pictures and a model in, a folder with readings and a page out."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from patchlens.errors import OptionError
from patchlens.progress import Report

if TYPE_CHECKING:
    from patchlens.bank.bank import Bank
    from patchlens.capture.hidden_states import HiddenStates
    from patchlens.inputs.audio import AudioInput
    from patchlens.inputs.image import ImageInput
    from patchlens.inputs.video import VideoInput
    from patchlens.lenses.reading import Readings
    from patchlens.models.model import Model

Input: TypeAlias = "ImageInput | AudioInput | VideoInput | HiddenStates"

__all__ = ["MARKER", "Result", "check_k", "lens_names", "open_all", "read_all", "save"]

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


def open_all(paths: Sequence[Path]) -> "list[Input]":
    """Open everything before anything slow begins; two of one name get a number each.

    Raises:
        ImageError: A picture cannot be used; AudioError a recording; StatesError hidden states.
    """
    from patchlens.capture.elsewhere import open_states
    from patchlens.inputs.audio import open_audio
    from patchlens.inputs.image import open_image
    from patchlens.inputs.video import open_video

    opened: list[Input] = []
    taken: set[str] = set()
    for path in paths:
        if path.suffix.lower() == ".safetensors":
            states = open_states(path)
            if not states.sources and "text" in taken:
                raise OptionError(f"Reading {path}: another file holds text alone too. Read them one at a time.")
            named = tuple(replace(source, name=_free(source.name, taken)) for source in states.sources)
            opened.append(replace(states, sources=named))
            taken |= set() if states.sources else {"text"}
            continue
        stem = os.fsencode(path.stem).decode("utf-8", "replace")  # as `open_image` does, before names are compared
        name = _free(stem, taken)
        if path.is_dir():
            opened.append(open_video(path, name=name))
        else:
            opened.append((open_audio if path.suffix.lower() == ".wav" else open_image)(path, name=name))
    return opened


def _free(name: str, taken: set[str]) -> str:
    """The name, with a number if it is taken; it is taken afterwards."""
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name} ({number})"
    taken.add(free)
    return free


def read_all(
    inputs: "Sequence[Input]",
    load: "Callable[[], Model]",
    *,
    bank: str | None,
    lenses: Sequence[str],
    layers: str,
    k: int,
    prompt: str | None = None,
    raw: bool = False,
    positions: str = "visual",
    answer: int = 0,
    allow_other_model: bool = False,
    report: Report,
) -> Result:
    """Read the wanted tokens of everything with each lens.

    Args:
        inputs: Pictures and recordings, each in a prompt of its own, and hidden states.
        load: Gives the model; called after the bank was opened, which fails sooner.
        bank: Folder or embedded name, needed by the latent lens alone.
        lenses: Names of lenses.
        layers: As `resolve_layers` takes them; hidden states are read at those of theirs that are among them.
        k: Candidates per token, layer and lens.
        prompt: None for `capture`'s own.
        raw: As for `capture`.
        positions: As for `capture`.
        answer: As for `capture`; the answer's tokens are read besides the visual ones.
        allow_other_model: Use the bank of another language model of the same width.
        report: Told of every stage.

    Raises:
        PatchlensError: As opening the bank, loading, capturing and reading do.
    """
    from patchlens.bank.bank import open_bank
    from patchlens.capture.capture import capture
    from patchlens.capture.hidden_states import HiddenStates
    from patchlens.inputs.audio import AudioInput
    from patchlens.inputs.video import VideoInput
    from patchlens.lenses.reading import Readings
    from patchlens.lenses.registry import make_lens
    from patchlens.models.site import layers_among

    opened = None if bank is None or "latent" not in lenses else open_bank(bank, report=report)
    report("Loading the model", 0, 1)
    model = load()
    report("Loading the model", 1, 1)
    made = [make_lens(name, model, opened, allow_other_model=allow_other_model) for name in lenses]
    if opened is not None:
        # Before the first picture is run, not after it.
        opened.check(model.fingerprint, model.d_model, allow_other_model=allow_other_model, model=model.name)
    if inputs and all(isinstance(given, HiddenStates) for given in inputs) and (prompt or raw or answer):
        raise OptionError(
            "A prompt or an answer was given, and hidden states from files have theirs already. Leave it out."
        )
    parts: list[Readings] = []
    total = len(inputs) * len(made)
    asked: dict[str, Any] = {"raw": raw, "answer": answer, "layers": layers}
    if prompt is not None:
        asked["prompt"] = prompt
    report("Reading", 0, total)
    for given in inputs:
        among = None
        if isinstance(given, HiddenStates):
            states = given
            among = layers_among(layers, given.layers, f"these hidden states of {given.provenance.model}")
        else:
            kind = {AudioInput: "audio", VideoInput: "video"}.get(type(given), "image")
            shown: dict[str, Any] = {kind: given}
            lacking = answer and not {"answer", "all"} & set(positions.split(","))
            wanted = f"{positions},answer" if lacking else positions
            states = capture(model, **shown, **asked, positions=wanted)
        for lens in made:
            parts.append(lens.read(states, k=k, layers=among))
            report("Reading", len(parts), total)
    return Result(Readings.join(parts), opened)


def save(readings: "Readings", folder: Path, title: str | None = None) -> None:
    """Write the readings and their page into a folder that is still in the making."""
    from patchlens.views.page import write_page

    readings.save(folder)
    write_page(readings, folder / "page.html", title=title)
