"""What lenses said, as a table with one row per candidate; saved as Parquet, PNG and one JSON.

It does not know how a lens came to its candidates, and it needs no torch.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from patchlens.errors import ImageError, OptionError, ReadingsError
from patchlens.inputs.image import ImageInput, open_image
from patchlens.models.patch_grid import PatchGrid
from patchlens.models.tile import Tile
from patchlens.provenance import JSON
from patchlens.storage import readable, replacing_folder, write_json

__all__ = ["SCHEMA", "Candidate", "Reading", "Readings", "open_readings"]

FORMAT_VERSION = 2
_TEXT = pa.dictionary(pa.int32(), pa.string())

SCHEMA = pa.schema(
    [
        ("image", _TEXT),
        ("lens", _TEXT),
        ("layer", pa.int32()),
        ("position", pa.int32()),
        ("kind", _TEXT),
        ("tile", pa.int32()),
        ("row", pa.int32()),
        ("column", pa.int32()),
        ("start", pa.float32()),
        ("end", pa.float32()),
        ("rank", pa.int32()),
        ("word", _TEXT),
        ("token", _TEXT),
        ("similarity", pa.float32()),
        ("logit", pa.float32()),
        ("context_layer", pa.int32()),
        ("sentence", _TEXT),
        ("word_start", pa.int32()),
        ("word_end", pa.int32()),
        ("prefix_end", pa.int32()),
        ("bank_row", pa.int64()),
    ]
)
"""Columns of a readings table. Text repeats, so it is dictionary-encoded; unknown is null."""

_KEY = ("image", "lens", "layer", "position")
_REQUIRED = ("image", "lens", "layer", "position", "kind", "rank", "word", "token")


@dataclass(frozen=True)
class Candidate:
    """One ranked word in a reading, with the sentence it stands in if it came from one."""

    rank: int
    """1 is the best."""
    word: str
    """The whole word, for people."""
    token: str
    """The raw vocabulary piece the state was compared with."""
    similarity: float | None = None
    """Cosine in [-1, 1]; None for a lens that has none."""
    logit: float | None = None
    """The model's logit; None for a lens that has none."""
    context_layer: int | None = None
    """The layer at which the context was stored in the bank."""
    sentence: str | None = None
    """The sentence the token stands in."""
    word_span: tuple[int, int] | None = None
    """Start and end of the word in the sentence, in characters."""
    prefix_end: int | None = None
    """End of the token in the sentence: the model had read nothing to the right of it."""
    bank_row: int | None = None
    """Row of the bank, for `Bank.context`."""


@dataclass(frozen=True, repr=False)
class Reading:
    """What one lens said about one position at one layer."""

    image: str
    lens: str
    layer: int
    position: int
    """Position in the language model's sequence, from 0."""
    row: int | None
    """Row in the patch grid from the top; None for what has no place in an image."""
    column: int | None
    """Column in the patch grid from the left; None likewise."""
    candidates: tuple[Candidate, ...]
    """Best first."""
    kind: str = "text"
    """What the position holds; see `token_map.KINDS`."""
    tile: int | None = None
    """Which tile of the image, in the order of `Readings.tiles`; None for what has no place."""
    start: float | None = None
    """For a token of a recording: from when, in seconds."""
    end: float | None = None
    """Until when."""

    @property
    def words(self) -> tuple[str, ...]:
        """The words of the candidates, best first."""
        return tuple(candidate.word for candidate in self.candidates)

    def __repr__(self) -> str:
        where = f"position {self.position}" if self.row is None else f"row {self.row}, column {self.column}"
        if self.tile:
            where = f"tile {self.tile}, {where}"
        if self.start is not None and self.end is not None:
            where = f"{self.start:.2f} to {self.end:.2f} s"
        return f"Reading({self.image!r}, {self.lens}, layer {self.layer}, {where}: {', '.join(self.words)})"


class Readings:
    """Many readings in one columnar table, with their images, patch grids and provenance.

    The candidates of a reading are neighbouring rows in rank order. Iteration gives `Reading` records;
    `len` counts them. Nothing here changes after it was made: selecting and joining give new readings.

    Attributes:
        table: One row per candidate, columns of `SCHEMA`.
        images: The image of each name in the table; None for text alone and for recordings.
        tiles: The tiles of each image that has places.
        provenance: How each part was made, one record per lens and image.
    """

    def __init__(
        self,
        table: pa.Table,
        *,
        images: Mapping[str, ImageInput | None],
        tiles: Mapping[str, Sequence[Tile]],
        provenance: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.table: pa.Table = _checked(table)
        present = _distinct(self.table["image"])
        if missing := [name for name in present if name not in images]:
            raise ReadingsError(
                f"The readings speak of the images {', '.join(missing)}, which are not among those given "
                f"({', '.join(images) or 'none'}). Give an entry for each, None for text alone."
            )
        self.images: dict[str, ImageInput | None] = {name: images[name] for name in present}
        self.tiles: dict[str, tuple[Tile, ...]] = {name: tuple(tiles[name]) for name in present if tiles.get(name)}
        self.provenance: list[dict[str, Any]] = [dict(record) for record in provenance]
        self._starts = np.flatnonzero(self._numbers("rank") == 1)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that were read, lowest first."""
        return tuple(np.unique(self._numbers("layer")).tolist())

    @property
    def lenses(self) -> tuple[str, ...]:
        """The lenses that spoke, in the order of the table."""
        return tuple(_distinct(self.table["lens"]))

    @property
    def grids(self) -> dict[str, PatchGrid]:
        """The patch grid of each image that has one for all of it; not of images in several tiles."""
        return {name: tiles[0].grid for name, tiles in self.tiles.items() if len(tiles) == 1}

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[Reading]:
        ends = [*self._starts[1:].tolist(), self.table.num_rows]
        # One window of rows at a time: as Python objects the whole table takes fifty times its memory.
        window = 1000
        for first in range(0, len(self), window):
            starts, stops = self._starts[first : first + window].tolist(), ends[first : first + window]
            rows = self.table.slice(starts[0], stops[-1] - starts[0]).to_pylist()
            for start, stop in zip(starts, stops, strict=True):
                yield _reading(rows[start - starts[0] : stop - starts[0]])

    def select(
        self,
        *,
        image: str | Iterable[str] | None = None,
        lens: str | Iterable[str] | None = None,
        layer: int | Iterable[int] | None = None,
        kind: str | Iterable[str] | None = None,
        tile: int | Iterable[int] | None = None,
        row: int | Iterable[int] | None = None,
        column: int | Iterable[int] | None = None,
        position: int | Iterable[int] | None = None,
        word: str | Iterable[str] | None = None,
    ) -> "Readings":
        """Keep the readings that fit every condition given; each takes one value or several.

        Args:
            image: Names of images.
            lens: Names of lenses.
            layer: Layers.
            kind: What the positions hold: "patch", "query", "audio", "text", "answer" …; see `token_map.KINDS`.
            tile: Tiles of an image, in the order of `tiles`.
            row: Rows of the patch grid.
            column: Columns of the patch grid.
            position: Positions in the language model's sequence.
            word: Keep whole readings in which any candidate is one of these words; case is ignored.

        Raises:
            OptionError: An image, lens or layer that was never read. A word that nobody says is no error.
        """
        layers: Any = None if layer is None else _several(layer)  # listed once: an iterator would be used up
        for name, wanted, known in (
            ("image", image, tuple(self.images)),
            ("lens", lens, self.lenses),
            ("layer", layers, self.layers),
        ):
            if unknown := [value for value in _several(wanted) if value not in known]:
                raise OptionError(
                    f"Cannot select {name} {unknown[0]!r} from these readings. "
                    f"They hold: {', '.join(map(str, known)) or 'nothing'}."
                )
        keep = np.ones(self.table.num_rows, dtype=bool)
        for name, wanted in (("image", image), ("lens", lens), ("kind", kind)):
            if wanted is not None:
                keep &= _says(self.table[name], _several(wanted))
        whole = (("layer", layers), ("tile", tile), ("row", row), ("column", column), ("position", position))
        for name, wanted in whole:
            if wanted is not None:
                among = pa.array(_several(wanted), pa.int32())
                keep &= pc.is_in(self.table[name], value_set=among).to_numpy()
        if word is not None and len(self):
            said = _says(self.table["word"], [text.lower() for text in _several(word)], lower=True)
            lengths = np.diff(np.append(self._starts, self.table.num_rows))
            keep &= np.repeat(np.logical_or.reduceat(said, self._starts), lengths)
        return self._with(self.table.filter(pa.array(keep)))

    def at(
        self,
        *,
        layer: int | None = None,
        row: int | None = None,
        column: int | None = None,
        lens: str | None = None,
        image: str | None = None,
        tile: int | None = None,
        position: int | None = None,
    ) -> Reading:
        """The one reading at a place; what is the same for all readings can be left out.

        Raises:
            OptionError: No reading is there, or more than one; the message names what is missing.
        """
        place = {"image": image, "lens": lens, "layer": layer, "tile": tile, "row": row, "column": column}
        asked = {name: value for name, value in {**place, "position": position}.items() if value is not None}
        found = self.select(**cast(dict[str, Any], asked))
        if len(found) == 1:
            return next(iter(found))
        where = ", ".join(f"{name} {value}" for name, value in asked.items()) or "no place named"
        if not len(found):
            raise OptionError(f"There is no reading at {where}. {self._extent()}")
        several = [
            f"{name} ({', '.join(map(str, values[:6]))}{', …' if len(values) > 6 else ''})"
            for name in ("image", "lens", "layer", "tile", "row", "column", "position")
            if name not in asked and len(values := found.table[name].unique().to_pylist()) > 1
        ]
        raise OptionError(f"{len(found)} readings are at {where}. Say which: {'; '.join(several)}.")

    def different_words(self, k: int) -> "Readings":
        """Keep the best candidate of each word, whatever its case, and the k best of those; ranks are counted anew.

        Args:
            k: Words per reading at most. Where fewer are among the candidates, fewer remain.

        Raises:
            OptionError: A k below 1.
        """
        if k < 1:
            raise OptionError(f"{k} different words were asked of each reading. Ask for at least 1.")
        words = _dictionary(self.table["word"])
        lower = pc.utf8_lower(words.dictionary).dictionary_encode().indices.to_numpy()[words.indices.to_numpy()]
        reading = np.cumsum(self._numbers("rank") == 1) - 1
        # The first of equal keys is the best ranked.
        _, first = np.unique(reading * (int(lower.max(initial=0)) + 1) + lower, return_index=True)
        first.sort()
        kept = reading[first]
        rank = np.arange(len(first)) - np.searchsorted(kept, kept) + 1
        table = self.table.take(pa.array(first[rank <= k]))
        place = self.table.schema.get_field_index("rank")
        return self._with(table.set_column(place, SCHEMA.field("rank"), pa.array(rank[rank <= k].astype(np.int32))))

    @classmethod
    def join(cls, parts: Iterable["Readings"]) -> "Readings":
        """Put readings of several lenses, layers or images together.

        Raises:
            ReadingsError: Nothing to join, one name for two different images, or the same reading twice.
        """
        parts = list(parts)
        if not parts:
            raise ReadingsError("There are no readings to join. Give at least one.")
        images: dict[str, ImageInput | None] = {}
        tiles: dict[str, tuple[Tile, ...]] = {}
        for part in parts:
            for name, image in part.images.items():
                known = images.setdefault(name, image)
                cut = part.tiles.get(name)
                if _pixels(known) != _pixels(image) or (cut and tiles.get(name, cut) != cut):
                    raise ReadingsError(
                        f"Two different images in these readings are called {name!r}. "
                        "Give them names of their own: open_image(source, name='…')."
                    )
            tiles.update(part.tiles)
        table = pa.concat_tables([part.table for part in parts])
        provenance: list[dict[str, Any]] = []
        for record in (record for part in parts for record in part.provenance):
            if record not in provenance:
                provenance.append(record)
        joined = cls(table, images=images, tiles=tiles, provenance=provenance)
        _refuse_repeats(joined)
        return joined

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write `readings.parquet`, `readings.json` and one PNG per image, all or nothing.

        Args:
            folder: Where to; made if it does not exist.
            overwrite: Replace readings that are in the folder already.

        Raises:
            OptionError: The folder holds something else, or readings and `overwrite` is not set.
            StorageError: The disk refuses.
        """
        folder = Path(folder)
        with replacing_folder(folder, overwrite=overwrite, marker="readings.json") as temporary:
            pq.write_table(self.table, temporary / "readings.parquet", compression="zstd")
            entries: list[JSON] = []
            for number, (name, image) in enumerate(self.images.items()):
                entry: dict[str, JSON] = {"name": name, "file": None, "source": None, "sha256": None}
                if image is not None:
                    # The name may hold anything; the number keeps two alike apart.
                    file = f"{number:03}-{re.sub(r'[^A-Za-z0-9_-]+', '-', name)[:60]}.png"
                    image.pixels.save(temporary / file)
                    entry |= {"file": file, "source": image.source, "sha256": image.sha256}
                entry["tiles"] = [tile.to_json() for tile in self.tiles.get(name, ())]
                entries.append(entry)
            write_json(
                temporary / "readings.json",
                {
                    "format": FORMAT_VERSION,
                    "readings": len(self),
                    "candidates": self.table.num_rows,
                    "sha256": _digest(temporary / "readings.parquet"),
                    "images": entries,
                    "provenance": cast(list[JSON], self.provenance),
                },
            )
        return folder

    def __repr__(self) -> str:
        return (
            f"Readings({len(self):,} of {_count(len(self.images), 'image')}, {', '.join(self.lenses) or 'no lens'}, "
            f"{_span(self.layers)})"
        )

    def _repr_html_(self) -> str:
        from patchlens.lenses.summary import html

        return html(self)

    def _numbers(self, name: str) -> "np.ndarray[Any, np.dtype[Any]]":
        return cast("np.ndarray[Any, np.dtype[Any]]", self.table[name].to_numpy())

    def _with(self, table: pa.Table) -> "Readings":
        return Readings(table, images=self.images, tiles=self.tiles, provenance=self.provenance)

    def _extent(self) -> str:
        grids = ", ".join(f"{name} {_shape(tiles)}" for name, tiles in list(self.tiles.items())[:4])
        return (
            f"These readings hold {_count(len(self.images), 'image')} ({grids or 'no places'}; rows and columns "
            f"count from 0), the lenses {', '.join(self.lenses)} and {_span(self.layers)}."
        )


def open_readings(folder: str | Path) -> Readings:
    """Open what `Readings.save` wrote.

    Raises:
        ReadingsError: The folder or a file is missing, cut short or edited, or of an unknown version.
        StorageError: It may not be read.
    """
    folder = Path(folder)
    with readable(folder):
        return _open(folder)


def _open(folder: Path) -> Readings:
    about = _about(folder)
    path = folder / "readings.parquet"
    if not os.path.isfile(path):
        raise ReadingsError(f"The readings in {folder} have no readings.parquet. Save them again.")
    if _digest(path) != about["sha256"]:
        raise ReadingsError(
            f"{path} is not the file that readings.json describes: it was cut short or edited. Save the readings again."
        )
    try:
        images = {entry["name"]: _open_image(folder, entry) for entry in about["images"]}
        tiles = {entry["name"]: [Tile.from_json(tile) for tile in entry["tiles"]] for entry in about["images"]}
        return Readings(pq.read_table(path), images=images, tiles=tiles, provenance=about["provenance"])
    except (KeyError, TypeError, ValueError, AttributeError, OptionError, pa.ArrowException) as error:
        raise ReadingsError(
            f"The readings in {folder} do not have the form of format version {FORMAT_VERSION} ({error}). "
            "Save them again."
        ) from error


def _about(folder: Path) -> dict[str, Any]:
    path = folder / "readings.json"
    if not os.path.isfile(path):  # where Path.is_file would raise: a name too long, a parent that may not be entered
        found = "it holds no readings.json" if os.path.isdir(folder) else "there is no such folder"
        raise ReadingsError(
            f"Cannot open readings from {folder}: {found}. Give a folder that Readings.save or 'patchlens read' wrote."
        )
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        version = about["format"]
    except (ValueError, TypeError, KeyError) as error:
        raise ReadingsError(f"{path} was cut short or edited ({error}). Save the readings again.") from error
    if version != FORMAT_VERSION:
        raise ReadingsError(
            f"The readings in {folder} have format version {version}; this release of patchlens knows "
            f"{FORMAT_VERSION}. Open them with the release that wrote them, or read the image again."
        )
    if missing := {"sha256", "images", "provenance"} - set(about):
        raise ReadingsError(f"{path} lacks {', '.join(sorted(missing))}: it was edited. Save the readings again.")
    return cast(dict[str, Any], about)


def _open_image(folder: Path, entry: Mapping[str, Any]) -> ImageInput | None:
    if entry["file"] is None:
        return None
    path = folder / Path(entry["file"]).name
    try:
        image = open_image(path, name=entry["name"])
    except ImageError as error:
        raise ReadingsError(f"The readings in {folder} lost their image {entry['name']!r}. {error}") from error
    if image.sha256 != entry["sha256"]:
        raise ReadingsError(f"{path} is not the image that was read: it was edited. Read the image again.")
    return ImageInput(image.pixels, entry["name"], entry["source"], image.sha256)


def _checked(table: pa.Table) -> pa.Table:
    """The table in one chunk per column, with the columns, types and rank order of readings."""
    if table.column_names != SCHEMA.names:
        raise ReadingsError(
            f"A readings table has the columns {', '.join(SCHEMA.names)}; this one has {', '.join(table.column_names)}."
        )
    if table.schema != SCHEMA:
        try:
            table = table.cast(SCHEMA)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ReadingsError(f"A column of the readings table has a wrong type: {error}.") from error
    table = table.unify_dictionaries().combine_chunks()
    if holes := [name for name in _REQUIRED if table[name].null_count]:
        raise ReadingsError(f"The readings table has unknowns in {', '.join(holes)}, which every candidate must have.")
    rank = table["rank"].to_numpy()
    if len(rank) and (rank[0] != 1 or np.any((rank[1:] != 1) & (rank[1:] != rank[:-1] + 1))):
        raise ReadingsError("The readings table is out of order: ranks run 1, 2, 3, … within each reading.")
    return table


def _refuse_repeats(readings: Readings) -> None:
    first = readings.table.select(_KEY).take(pa.array(readings._starts))
    counts = first.group_by(list(_KEY)).aggregate([([], "count_all")])
    twice = counts.filter(pc.greater(counts["count_all"], 1))
    if twice.num_rows:
        sample = twice.select(_KEY).slice(0, 1).to_pylist()[0]
        raise ReadingsError(
            f"{_count(twice.num_rows, 'reading')} would be there more than once, the first at "
            f"{', '.join(f'{name} {value}' for name, value in sample.items())}. "
            "Join each lens, layer and image once."
        )


def _reading(rows: list[dict[str, Any]]) -> Reading:
    first = rows[0]
    candidates = tuple(
        Candidate(
            rank=row["rank"],
            word=row["word"],
            token=row["token"],
            similarity=row["similarity"],
            logit=row["logit"],
            context_layer=row["context_layer"],
            sentence=row["sentence"],
            word_span=None if row["word_start"] is None else (row["word_start"], row["word_end"]),
            prefix_end=row["prefix_end"],
            bank_row=row["bank_row"],
        )
        for row in rows
    )
    place = ("image", "lens", "layer", "position", "kind", "tile", "row", "column", "start", "end")
    return Reading(**{name: first[name] for name in place}, candidates=candidates)


def _dictionary(column: pa.ChunkedArray) -> pa.DictionaryArray:
    array = column.combine_chunks()
    return array.chunk(0) if isinstance(array, pa.ChunkedArray) else array


def _distinct(column: pa.ChunkedArray) -> list[str]:
    return cast(list[str], column.unique().to_pylist())


def _says(column: pa.ChunkedArray, wanted: Sequence[str], *, lower: bool = False) -> "np.ndarray[Any, np.dtype[Any]]":
    """Which rows of a dictionary column hold one of the texts; only the distinct texts are compared."""
    encoded = _dictionary(column)
    texts = pc.utf8_lower(encoded.dictionary) if lower else encoded.dictionary
    hits = pc.is_in(texts, value_set=pa.array(list(wanted), pa.string())).to_numpy(zero_copy_only=False)
    return cast("np.ndarray[Any, np.dtype[Any]]", hits[encoded.indices.to_numpy()])


def _several(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, (str, int, np.integer)) else list(value)


def _pixels(image: ImageInput | None) -> str | None:
    return None if image is None else image.sha256


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _shape(tiles: Sequence[Tile]) -> str:
    if len(tiles) > 1:
        return f"in {len(tiles)} tiles"
    return f"{tiles[0].grid.rows} × {tiles[0].grid.columns}"


def _span(layers: Sequence[int]) -> str:
    if not layers:
        return "no layer"
    if len(layers) == 1:
        return f"layer {layers[0]}"
    whole = list(layers) == list(range(layers[0], layers[-1] + 1))
    return f"layers {layers[0]}–{layers[-1]}" if whole else f"layers {', '.join(map(str, layers))}"
