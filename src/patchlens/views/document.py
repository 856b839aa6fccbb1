"""Readings as the one JSON document that an interactive view draws.

Texts are held once, numbers are base64 of little-endian typed arrays, images are data URIs. The document
knows nothing of HTML, colours or widgets.
"""

import base64
import io
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa

from patchlens.inputs.image import ImageInput
from patchlens.lenses.reading import Readings
from patchlens.lenses.summary import LENS_TITLES
from patchlens.models.tile import KINDS, Tile

__all__ = ["document"]

FORMAT_VERSION = 2
_PNG_BYTES = 600_000
_LONGEST_SIDE = 1600

Array = np.ndarray[Any, np.dtype[Any]]


def document(readings: Readings, *, title: str | None = None) -> dict[str, Any]:
    """Everything that a view of the readings needs, ready for `json.dumps`.

    Returns:
        `images` (with views and positions; see below), `lenses`, `layers`, the distinct texts `words`, `tokens` and
        `sentences`, the distinct `entries` (a word in its sentence: ids into the texts and character
        offsets, -1 for unknown), `provenance`, and one block per image and lens. A block holds arrays of
        [layer, position, k]: `entries` (the largest number where nothing was read), `values` (of the block's
        `kind`: similarity, logit, or None and NaN), and `context_layers` (255 where there is none).

        An image's tokens are described by arrays of [position]: `kinds` (indices into the document's `kinds`), `tiles`,
        `rows` and `columns` (-1 for what has no place), `boxes` of [position, 4] (top, left, bottom, right in pixels of
        the original; NaN for none), and `seconds` of [position, 2] for a recording. `views` are what can be shown at
        once without overlap, each with its `name`, the `tiles` in it and the `region` that they cover together.
    """
    table = readings.table
    texts = {name: _interned(table[name]) for name in ("word", "token", "sentence")}
    offsets = {name: _numbers(table[name], -1) for name in ("word_start", "word_end", "prefix_end")}
    keys = {**{name: codes for name, (_, codes) in texts.items()}, **offsets}
    first, entry = _distinct_rows(list(keys.values()))
    lenses = list(readings.lenses)
    images = list(readings.images)
    image_of, lens_of = _codes(table["image"], images), _codes(table["lens"], lenses)
    positions = [np.unique(_numbers(table["position"], -1)[image_of == number]) for number in range(len(images))]
    columns = {
        "layer": np.searchsorted(np.array(readings.layers), _numbers(table["layer"], -1)),
        "position": _numbers(table["position"], -1),
        "rank": _numbers(table["rank"], -1) - 1,
        "entry": entry,
        "similarity": _numbers(table["similarity"], np.nan),
        "logit": _numbers(table["logit"], np.nan),
        "context_layer": _numbers(table["context_layer"], 255),
    }
    blocks = []
    for i in range(len(images)):
        for j in range(len(lenses)):
            here = np.flatnonzero((image_of == i) & (lens_of == j))
            if len(here):
                part = {name: values[here] for name, values in columns.items()}
                block = _block(part, positions[i], len(readings.layers), len(first))
                blocks.append({"image": i, "lens": j, **block})
    return {
        "format": FORMAT_VERSION,
        "title": title or (images[0] if len(images) == 1 else f"{len(images)} images"),
        "images": [_image(readings, name, number, image_of, positions[number]) for number, name in enumerate(images)],
        "kinds": list(KINDS),
        "lenses": [{"name": name, "title": LENS_TITLES.get(name, name)} for name in lenses],
        "layers": list(readings.layers),
        "words": texts["word"][0],
        "tokens": texts["token"][0],
        "sentences": texts["sentence"][0],
        "entries": {name: _encoded(values[first].astype(np.int32)) for name, values in keys.items()},
        "blocks": blocks,
        "provenance": readings.provenance,
    }


def _block(part: dict[str, Array], positions: Array, layers: int, entries: int) -> dict[str, Any]:
    shape = (layers, len(positions), int(part["rank"].max()) + 1)
    where = (part["layer"], np.searchsorted(positions, part["position"]), part["rank"])
    small = np.uint16 if entries < np.iinfo(np.uint16).max else np.uint32
    ids = np.full(shape, np.iinfo(small).max, dtype=small)
    ids[where] = part["entry"]
    kind = next((name for name in ("similarity", "logit") if not np.isnan(part[name]).all()), None)
    values = np.zeros(shape, dtype=np.float32)
    values[where] = part[kind] if kind else np.nan
    contextual = None
    if (part["context_layer"] != 255).any():
        contextual = np.full(shape, 255, dtype=np.uint8)
        contextual[where] = part["context_layer"]
    return {
        "k": shape[2],
        "kind": kind,
        "entries": _encoded(ids),
        "values": _encoded(values),
        "context_layers": None if contextual is None else _encoded(contextual),
    }


def _image(readings: Readings, name: str, number: int, image_of: Array, positions: Array) -> dict[str, Any]:
    image, tiles, table = readings.images[name], readings.tiles.get(name, ()), readings.table
    here = np.flatnonzero(image_of == number)
    _, at = np.unique(_numbers(table["position"], -1)[here], return_index=True)
    tokens = here[at]
    tile, row, column = (_numbers(table[field], -1)[tokens] for field in ("tile", "row", "column"))
    boxes = np.full((len(tokens), 4), np.nan)
    for token in np.flatnonzero(tile >= 0):
        boxes[token] = tiles[tile[token]].grid.box(int(row[token]), int(column[token]))
    seconds = np.stack([_numbers(table[field], np.nan)[tokens] for field in ("start", "end")], axis=1)
    height, width = _size(image, tiles)
    return {
        "name": name,
        "uri": None if image is None else _uri(image),
        "width": width,
        "height": height,
        "views": _views(tiles),
        "positions": positions.tolist(),
        "kinds": _codes(table["kind"], list(KINDS))[tokens].tolist(),
        "tiles": tile.tolist(),
        "rows": row.tolist(),
        "columns": column.tolist(),
        "boxes": _encoded(boxes.astype(np.float32)),
        "seconds": None if np.isnan(seconds).all() else _encoded(seconds.astype(np.float32)),
    }


def _views(tiles: Sequence[Tile]) -> list[dict[str, Any]]:
    """The tiles in groups that do not overlap: those of an image together, its thumbnail by itself."""
    named = {"image": "Whole", "tile": "Tiles", "frame": "Frame", "thumbnail": "Thumbnail"}
    groups: list[tuple[str, list[int]]] = []
    for number, tile in enumerate(tiles):
        free = (
            group
            for name, group in groups
            if name == named[tile.role] and not any(_overlap(tile, tiles[other]) for other in group)
        )
        if (group := next(free, None)) is not None:
            group.append(number)
        else:
            groups.append((named[tile.role], [number]))
    groups.sort(key=lambda group: group[0] == "Thumbnail")
    return [
        {
            "name": name,
            "tiles": numbers,
            "rows": tiles[numbers[0]].grid.rows,
            "columns": tiles[numbers[0]].grid.columns,
            "region": _hull([tiles[number].grid.region for number in numbers]),
        }
        for name, numbers in groups
    ]


def _overlap(one: Tile, other: Tile) -> bool:
    (top, left, bottom, right), (upper, begin, lower, end) = one.grid.region, other.grid.region
    shared = (min(bottom, lower) - max(top, upper), min(right, end) - max(left, begin))
    return min(shared) > 1e-3 * max(bottom - top, right - left)


def _hull(regions: Sequence[tuple[float, float, float, float]]) -> list[float]:
    tops, lefts, bottoms, rights = zip(*regions, strict=True)
    return [min(tops), min(lefts), max(bottoms), max(rights)]


def _size(image: ImageInput | None, tiles: Sequence[Tile]) -> tuple[int, int]:
    if image is not None:
        return image.pixels.height, image.pixels.width
    return tiles[0].grid.image_size if tiles else (0, 0)


def _uri(image: ImageInput) -> str:
    """The image as a data URI: PNG where that is small, else a JPEG no larger than a screen shows."""
    pixels = image.pixels.copy()
    pixels.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    buffer, kind = io.BytesIO(), "png"
    pixels.save(buffer, "PNG", optimize=True)
    if buffer.tell() > _PNG_BYTES:
        buffer, kind = io.BytesIO(), "jpeg"
        pixels.save(buffer, "JPEG", quality=88)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _interned(column: pa.ChunkedArray) -> tuple[list[str], Array]:
    """The distinct texts that occur, and for each row its place among them, -1 for unknown."""
    encoded = column.combine_chunks()
    encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
    indices = encoded.indices.fill_null(-1).to_numpy()
    used, codes = np.unique(indices, return_inverse=True)
    unknown = int(len(used) > 0 and used[0] == -1)
    texts = encoded.dictionary.take(pa.array(used[unknown:])).to_pylist()
    return texts, codes.reshape(-1) - unknown


def _distinct_rows(columns: list[Array]) -> tuple[Array, Array]:
    """The first row of each distinct combination of the columns, and for each row its combination.

    Each step numbers the pairs seen so far anew, so nothing overflows; sorting whole rows takes ten times as long.
    """
    first, codes = np.unique(columns[0], return_index=True, return_inverse=True)[1:]
    for column in columns[1:]:
        pairs = codes.astype(np.int64) * (int(column.max(initial=0)) + 2) + column + 1
        first, codes = np.unique(pairs, return_index=True, return_inverse=True)[1:]
    return first, codes


def _codes(column: pa.ChunkedArray, names: list[str]) -> Array:
    encoded = column.combine_chunks()
    encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
    number = {name: i for i, name in enumerate(names)}
    lookup = np.array([number.get(text, -1) for text in encoded.dictionary.to_pylist()], dtype=np.int64)
    return lookup[encoded.indices.to_numpy()] if len(encoded) else np.zeros(0, dtype=np.int64)


def _numbers(column: pa.ChunkedArray, unknown: int | float) -> Array:
    return cast(Array, column.fill_null(unknown).to_numpy())


def _encoded(array: Array) -> dict[str, str]:
    names = {"uint8": "Uint8", "uint16": "Uint16", "uint32": "Uint32", "int32": "Int32", "float32": "Float32"}
    little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    return {"type": names[array.dtype.name], "base64": base64.b64encode(little.tobytes()).decode()}
