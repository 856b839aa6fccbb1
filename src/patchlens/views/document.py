"""Readings as the one JSON document that an interactive view draws.

Texts are held once, numbers are base64 of little-endian typed arrays, images are data URIs. The document
knows nothing of HTML, colours or widgets.
"""

import base64
import io
from typing import Any, cast

import numpy as np
import pyarrow as pa

from patchlens.inputs.image import ImageInput
from patchlens.lenses.reading import Readings
from patchlens.lenses.summary import LENS_TITLES
from patchlens.models.patch_grid import PatchGrid

__all__ = ["document"]

FORMAT_VERSION = 1
_PNG_BYTES = 600_000
_LONGEST_SIDE = 1600

Array = np.ndarray[Any, np.dtype[Any]]


def document(readings: Readings, *, title: str | None = None) -> dict[str, Any]:
    """Everything that a view of the readings needs, ready for `json.dumps`.

    Returns:
        `images` (with grid and positions), `lenses`, `layers`, the distinct texts `words`, `tokens` and
        `sentences`, the distinct `entries` (a word in its sentence: ids into the texts and character
        offsets, -1 for unknown), `provenance`, and one block per image and lens. A block holds arrays of
        [layer, position, k]: `entries` (the largest number where nothing was read), `values` (of the block's
        `kind`: similarity, logit, or None and NaN), and `context_layers` (255 where there is none).
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
    image, grid = readings.images[name], readings.grids.get(name)
    table = readings.table
    here = np.flatnonzero(image_of == number)
    _, at = np.unique(_numbers(table["position"], -1)[here], return_index=True)
    height, width = _size(image, grid)
    return {
        "name": name,
        "uri": None if image is None else _uri(image),
        "width": width,
        "height": height,
        "grid": None if grid is None else _grid(grid),
        "positions": positions.tolist(),
        "rows": _numbers(table["row"], -1)[here][at].tolist(),
        "columns": _numbers(table["column"], -1)[here][at].tolist(),
    }


def _grid(grid: PatchGrid) -> dict[str, Any]:
    boxes = np.array([grid.box(row, column) for row in range(grid.rows) for column in range(grid.columns)])
    return {
        "rows": grid.rows,
        "columns": grid.columns,
        "region": list(grid.region),
        "boxes": _encoded(boxes.astype(np.float32)),
    }


def _size(image: ImageInput | None, grid: PatchGrid | None) -> tuple[int, int]:
    if image is not None:
        return image.pixels.height, image.pixels.width
    return grid.image_size if grid is not None else (0, 0)


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
