"""Readings in short: which few places to show, and a small static table for notebooks.

It draws nothing that needs JavaScript; the interactive page is in `patchlens.views`.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import pyarrow.compute as pc

if TYPE_CHECKING:
    from PIL.Image import Image

    from patchlens.lenses.reading import Reading, Readings

__all__ = ["Place", "excerpt", "heading", "html", "line", "printable"]

LENS_TITLES = {"latent": "LatentLens", "logit": "LogitLens", "embedding": "EmbeddingLens"}


@dataclass(frozen=True)
class Place:
    """A position that was read, and its patch if it has one."""

    image: str
    position: int
    row: int | None
    column: int | None
    tile: int | None = None
    """Which tile, of an image in several; None otherwise."""
    start: float | None = None
    """For a token of a recording, its second."""

    @property
    def label(self) -> str:
        """How a table names it."""
        if self.start is not None:
            return f"{self.start:.2f} s"
        if self.row is None:
            return f"position {self.position}"
        return f"{self.row}, {self.column}" if self.tile is None else f"{self.tile}: {self.row}, {self.column}"


def excerpt(
    readings: "Readings", *, image: str, places: int = 4, layers: int = 4
) -> tuple[list[Place], tuple[int, ...]]:
    """Choose a few places of an image and a few layers that show something.

    Layers are spread evenly. Places are those whose best candidate fits best at the middle layer under
    the first lens that spoke there, each with a word of its own as far as there are words.
    """
    part = readings.select(image=image)
    known = part.layers
    middle = known[len(known) // 2]
    table = part.select(layer=middle, lens=part.select(layer=middle).lenses[0]).table
    best = table.filter(pc.equal(table["rank"], 1))
    value = "similarity" if best["similarity"].null_count < best.num_rows else "logit"
    ranked = best.sort_by([(value, "descending"), ("position", "ascending")])
    rows = ranked.select(["position", "row", "column", "word", "tile", "start"]).to_pylist()
    several = len(readings.tiles.get(image, ())) > 1
    first_saying: dict[str, int] = {}
    for number, row in enumerate(rows):
        first_saying.setdefault(row["word"].lower(), number)
    fresh = set(first_saying.values())
    ordered = [rows[number] for number in sorted(range(len(rows)), key=lambda number: number not in fresh)]
    chosen = sorted(ordered[:places], key=lambda row: int(row["position"]))
    return (
        [
            Place(image, row["position"], row["row"], row["column"], row["tile"] if several else None, row["start"])
            for row in chosen
        ],
        _spread(known, layers),
    )


def heading(readings: "Readings", image: str) -> str:
    """What stands above the labels of an image's places."""
    tiles = readings.tiles.get(image, ())
    if tiles:
        return "tile: row, col" if len(tiles) > 1 else "row, col"
    start = readings.select(image=image).table["start"]
    return "time" if start.null_count < len(start) else "position"


def printable(text: str) -> str:
    """The text with control characters made visible, so that it cannot steer a terminal or a layout."""
    return "".join(character if _harmless(character) else "\ufffd" for character in text)


def line(reading: "Reading | None", most: int) -> str:
    """The first few different words on one line; neighbours in a bank often share their word."""
    different: dict[str, str] = {}
    for candidate in reading.candidates if reading is not None else ():
        # A token may be a blank alone; its piece can be seen.
        different.setdefault(candidate.word.lower(), printable(candidate.word.strip() or candidate.token))
    return ", ".join(list(different.values())[:most])


def html(readings: "Readings", *, places: int = 4, layers: int = 3, words: int = 3) -> str:
    """A small escaped HTML table of an excerpt, with a thumbnail of each of the first images."""
    if not len(readings):
        return f"<p>{escape(repr(readings))}</p>"
    shown = list(readings.images)[:3]
    parts = [_image_html(readings, image, places, layers, words) for image in shown]
    more = len(readings.images) - len(shown)
    note = f" Shown: {'the first 3 images' if more else 'an excerpt'}; patchlens.show(readings) shows all."
    return f"<div>{''.join(parts)}<p><small>{escape(repr(readings) + '.' + note)}</small></p></div>"


def _image_html(readings: "Readings", image: str, places: int, layers: int, words: int) -> str:
    chosen, some_layers = excerpt(readings, image=image, places=places, layers=layers)
    part = readings.select(image=image, layer=some_layers, position=[place.position for place in chosen])
    said = {(reading.position, reading.layer, reading.lens): reading for reading in part}
    head = "".join(f"<th>{escape(LENS_TITLES.get(lens, lens))}</th>" for lens in part.lenses)
    body = []
    for place in chosen:
        for number, layer in enumerate(some_layers):
            label = f"<td>{escape(place.label) if number == 0 else ''}</td><td>{layer}</td>"
            cells = []
            for lens in part.lenses:
                text = escape(line(said.get((place.position, layer, lens)), words))
                cells.append(f"<td style='text-align:left'>{text}</td>")
            body.append(f"<tr>{label}{''.join(cells)}</tr>")
    picture = readings.images[image]
    thumbnail = "" if picture is None else f"<img alt='' src='{_thumbnail(picture.pixels)}'>"
    return (
        "<div style='display:flex;gap:1.5em;align-items:flex-start;flex-wrap:wrap'>"
        f"<figure style='margin:0'>{thumbnail}<figcaption><small>{escape(printable(image))}</small></figcaption>"
        f"</figure><table><thead><tr><th>{heading(part, image)}</th><th>layer</th>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _thumbnail(pixels: "Image", side: int = 180) -> str:
    small = pixels.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _spread(values: Sequence[int], count: int) -> tuple[int, ...]:
    if len(values) <= count:
        return tuple(values)
    if count == 1:
        return (values[len(values) // 2],)
    return tuple(values[round(i * (len(values) - 1) / (count - 1))] for i in range(count))


def _harmless(character: str) -> bool:
    # The two joiners are format characters that Indic scripts, Persian and emoji need.
    return character.isprintable() or character in "\u200c\u200d"
