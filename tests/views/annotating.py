"""Questions on the example scenes, and a server for them in a process of its own, which can be killed."""

import multiprocessing
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from patchlens.evaluation.question import Question, Shown, ask_about
from patchlens.evaluation.region import Region
from patchlens.evaluation.rubric import Rubric, find_rubric
from patchlens.inputs.image import open_image
from patchlens.models.patch_grid import PatchGrid
from patchlens.models.tile import Tile
from patchlens.views.annotate import annotation_app, serve

EXAMPLES = files("patchlens.picturebook") / "examples"
WORDS = (
    ("zoo", "sign", "park", "boot", "the"),
    ("airplane", "black", "sky", "fork", "vehicle"),
    ("boat", "harbor", "water", "red", "ing"),
    ("lighthouse", "window", "tree", "sea", "of"),
    ("snow", "mountain", "cold", "banana", "sheep"),
    ("green", "grass", "hat", "rock", "fast"),
)
PLACES = (("park", 2, 5), ("park", 8, 3), ("harbor", 5, 5), ("harbor", 9, 2), ("mountain", 3, 7), ("mountain", 8, 8))
SENTENCES = {"boat": "A small boat lies in the harbor.", "harbor": "The harbor is 🌊 quiet in the morning."}


def question(place: tuple[str, int, int], candidates: Sequence[Shown], rubric: Rubric | None = None) -> Question:
    name, row, column = place
    image = open_image(Path(str(EXAMPLES / f"{name}.png")))
    height, width = image.size
    tiles = [Tile(PatchGrid(12, 12, image.size, (0.0, 0.0, float(height), float(width))))]
    region = Region.around(name, tiles, 0, row, column)
    return ask_about(rubric or find_rubric("patch"), image, region, candidates)


def six() -> list[Question]:
    """Five words on each of six patches, two on each scene."""
    return [question(place, [Shown(word) for word in words]) for place, words in zip(PLACES, WORDS, strict=True)]


def in_sentences() -> list[Question]:
    """A word that is asked about as its sentence means it, after a letter of two UTF-16 units."""
    shown = [Shown(word, said, (said.index(word), said.index(word) + len(word))) for word, said in SENTENCES.items()]
    return [question(PLACES[2], shown, find_rubric("sentence"))]


def hostile() -> list[Question]:
    return [question(PLACES[0], [Shown("</script><img src=x onerror=\"document.title='run'\">"), Shown("&amp;")])]


KINDS = {"six": six, "in sentences": in_sentences, "hostile": hostile}


@dataclass
class Served:
    """A server in another process."""

    url: str
    folder: Path
    process: Any

    def kill(self) -> None:
        """As kill -9 does."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()


def start(folder: Path, kind: str = "six", *, port: int = 0, **options: Any) -> Served:
    """Serve questions of `KINDS`; ends with this process at the latest."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, folder, kind, port, options), daemon=True)
    process.start()
    assert ours.poll(60), "the server did not start"
    return Served(ours.recv(), folder, process)


def _serve(told: Connection, folder: Path, kind: str, port: int, options: dict[str, Any]) -> None:
    serve(annotation_app(KINDS[kind](), folder, **options), port=port, started=told.send)
