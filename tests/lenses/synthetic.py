"""Readings made in code, so that tests of tables and views need no model."""

import numpy as np
import pyarrow as pa
from PIL import Image

from patchlens.inputs.image import ImageInput, open_image
from patchlens.lenses.reading import SCHEMA, Readings
from patchlens.models.patch_grid import PatchGrid
from patchlens.models.tile import Tile

WORDS = ("dog", "Grass", "sky", "house", "tree", "ball", "red", "path")
SENTENCES = tuple(f"a small {word} stands near the garden gate" for word in WORDS)
BANK = {"bank": "picturebook", "bank_rows": 1000, "contextual_layers": [1, 2, 4]}
STATES = {
    "model": "tiny",
    "revision": None,
    "versions": {"patchlens": "0.1.0"},
    "created": "2026-01-01T00:00:00Z",
}


def picture(width: int = 96, height: int = 64, shade: int = 0) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 90 + shade)], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def readings(
    name: str = "scene",
    *,
    rows: int = 4,
    columns: int = 6,
    layers: tuple[int, ...] = (0, 1, 2),
    lenses: tuple[str, ...] = ("latent", "logit", "embedding"),
    k: int = 3,
    words: tuple[str, ...] = WORDS,
    sentences: tuple[str, ...] | None = None,
    image: ImageInput | None = None,
    seed: int = 0,
) -> Readings:
    """One image's readings: patch p's best word at layer l under lens n is words[(p + l + n) % len(words)]."""
    if sentences is None:
        sentences = tuple(f"a small {word} stands near the garden gate" for word in words)
    rng = np.random.default_rng(seed)
    image = open_image(picture(), name=name) if image is None else image
    height, width = image.size
    tokens = rows * columns
    total = len(layers) * tokens * k
    layer, token, rank = (part.ravel() for part in np.mgrid[0 : len(layers), 0:tokens, 0:k])
    parts = []
    for number, lens in enumerate(lenses):
        said = (token + layer + number + rank) % len(words)
        value = np.sort(rng.random((total // k, k)), axis=1)[:, ::-1].ravel().astype(np.float32)
        found = {
            "image": [name] * total,
            "lens": [lens] * total,
            "layer": np.array(layers)[layer],
            "position": token + 5,
            "kind": ["patch"] * total,
            "tile": np.zeros(total, dtype=int),
            "row": token // columns,
            "column": token % columns,
            "rank": rank + 1,
            "word": [words[i] for i in said],
            "token": [f"▁{words[i]}" for i in said],
            "logit" if lens == "logit" else "similarity": value,
        }
        if lens == "latent":
            starts = np.array([sentences[i].find(words[i]) for i in said])
            ends = starts + np.array([len(words[i]) for i in said])
            found |= {
                "context_layer": np.array([1, 2, 4])[said % 3],
                "sentence": [sentences[i] for i in said],
                "word_start": starts,
                "word_end": ends,
                "prefix_end": ends,
                "bank_row": said + 100,
            }
        parts.append(table(found))
    return Readings(
        pa.concat_tables(parts),
        images={name: image},
        tiles={name: [Tile(PatchGrid(rows, columns, (height, width), (0.0, 0.0, float(height), float(width))))]},
        provenance=[
            {"image": name, "lens": lens, "k": k, **(BANK if lens == "latent" else {}), "states": STATES}
            for lens in lenses
        ],
    )


def table(found: dict[str, object]) -> pa.Table:
    """The columns given as a readings table; the others unknown."""
    total = len(found["rank"])  # type: ignore[arg-type]
    columns = []
    for field in SCHEMA:
        if field.name not in found:
            columns.append(pa.nulls(total, field.type))
        elif pa.types.is_dictionary(field.type):
            columns.append(pa.array(found[field.name], pa.string()).dictionary_encode())
        else:
            columns.append(pa.array(found[field.name]).cast(field.type))
    return pa.table(columns, schema=SCHEMA)


def text_readings(words: tuple[str, ...] = ("once", "upon", "a", "time")) -> Readings:
    """One lens on a text alone: no image, no grid."""
    count = len(words)
    found = {
        "image": ["text"] * count,
        "lens": ["logit"] * count,
        "layer": [3] * count,
        "position": list(range(count)),
        "kind": ["text"] * count,
        "rank": [1] * count,
        "word": list(words),
        "token": list(words),
        "logit": [float(i) for i in range(count)],
    }
    return Readings(table(found), images={"text": None}, tiles={}, provenance=[])
