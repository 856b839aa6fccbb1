import base64
import json
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lenses import synthetic
from patchlens.inputs.image import open_image
from patchlens.lenses.reading import Readings
from patchlens.views.document import document


def decoded(array: dict[str, str]) -> np.ndarray[Any, np.dtype[Any]]:
    return np.frombuffer(base64.b64decode(array["base64"]), np.dtype(array["type"].lower()).newbyteorder("<"))


def spoken(content: dict[str, Any]) -> list[tuple[object, ...]]:
    """The document read back the slow way: (image, lens, layer, position, words, values, contextual layers)."""
    entries = {name: decoded(array) for name, array in content["entries"].items()}
    found = []
    for block in content["blocks"]:
        image, lens = content["images"][block["image"]], content["lenses"][block["lens"]]["name"]
        shape = (len(content["layers"]), len(image["positions"]), block["k"])
        ids = decoded(block["entries"]).reshape(shape)
        values = decoded(block["values"]).reshape(shape)
        contextual = None if block["context_layers"] is None else decoded(block["context_layers"]).reshape(shape)
        for i, layer in enumerate(content["layers"]):
            for j, position in enumerate(image["positions"]):
                here = [id for id in ids[i, j].tolist() if id != np.iinfo(ids.dtype).max]
                if here:
                    found.append(
                        (
                            image["name"],
                            lens,
                            layer,
                            position,
                            tuple(content["words"][entries["word"][id]] for id in here),
                            tuple(values[i, j, : len(here)].tolist()),
                            None if contextual is None else tuple(contextual[i, j, : len(here)].tolist()),
                        )
                    )
    return found


def expected(readings: Readings) -> list[tuple[object, ...]]:
    return [
        (
            one.image,
            one.lens,
            one.layer,
            one.position,
            one.words,
            tuple(each.logit if each.similarity is None else each.similarity for each in one.candidates),
            tuple(each.context_layer for each in one.candidates) if one.lens == "latent" else None,
        )
        for one in readings
    ]


@pytest.mark.parametrize(
    "readings",
    [
        synthetic.readings(),
        synthetic.readings(layers=(0, 8, 31), k=1),
        synthetic.readings().select(word="grass"),
        synthetic.text_readings(),
        Readings.join(
            [
                synthetic.readings("one", rows=2, columns=3, layers=(0, 4)),
                synthetic.readings("two", rows=3, columns=2, layers=(4, 5), lenses=("latent",), k=5),
            ]
        ),
    ],
    ids=["scene", "sparse layers", "holes", "text", "two images"],
)
def test_the_document_says_what_the_readings_say(readings: Readings) -> None:
    content = json.loads(json.dumps(document(readings)))
    assert sorted(spoken(content), key=str) == sorted(expected(readings), key=str)


def test_a_lens_that_measures_nothing(unmeasured: Readings) -> None:
    logit, random = document(Readings.join([synthetic.readings(lenses=("logit",)), unmeasured]))["blocks"]
    assert (logit["kind"], random["kind"]) == ("logit", None)
    assert np.isfinite(decoded(logit["values"])).all()
    assert np.isnan(decoded(random["values"])).all()


def test_texts_are_held_once() -> None:
    content = document(synthetic.readings(layers=tuple(range(20))))
    assert sorted(content["words"]) == sorted(synthetic.WORDS)
    assert sorted(content["sentences"]) == sorted(synthetic.SENTENCES)
    # Each word with and without its sentence.
    assert len(decoded(content["entries"]["word"])) == 2 * len(synthetic.WORDS)


def test_spans_and_places() -> None:
    readings = synthetic.readings(rows=2, columns=3)
    content = document(readings)
    entries = {name: decoded(array) for name, array in content["entries"].items()}
    for i in range(len(entries["word"])):
        word = content["words"][entries["word"][i]]
        assert content["tokens"][entries["token"][i]] == f"▁{word}"
        if entries["sentence"][i] < 0:
            assert entries["word_start"][i] == entries["prefix_end"][i] == -1
        else:
            sentence = content["sentences"][entries["sentence"][i]]
            assert sentence[entries["word_start"][i] : entries["word_end"][i]] == word
    (image,) = content["images"]
    assert (image["rows"], image["columns"]) == ([0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2])
    assert (image["height"], image["width"]) == (64, 96)
    boxes = decoded(image["boxes"]).reshape(6, 4)
    grid = readings.grids["scene"]
    assert [tuple(box) for box in boxes.tolist()] == [grid.box(*grid.at(i)) for i in range(6)]


def test_large_photographs_are_made_smaller_and_keep_their_coordinates() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1500, 2400, 3), dtype=np.uint8)
    image = open_image(Image.fromarray(noise), name="scene")
    (drawn,) = document(synthetic.readings(image=image, lenses=("logit",), layers=(0,)))["images"]
    assert drawn["uri"].startswith("data:image/jpeg;base64,")
    assert len(drawn["uri"]) < 2_500_000
    assert (drawn["height"], drawn["width"]) == (1500, 2400)


def test_the_empty_document() -> None:
    content = document(synthetic.readings().select(word="nobody"))
    assert (content["images"], content["lenses"], content["blocks"]) == ([], [], [])


def test_a_real_size_is_made_quickly() -> None:
    big = synthetic.readings(rows=24, columns=24, layers=tuple(range(33)), k=5)
    start = time.perf_counter()
    content = document(big)
    assert time.perf_counter() - start < 2  # measured: 0.25 s for 285,000 candidates
    assert len(json.dumps(content)) < 4_000_000


def test_title() -> None:
    two = Readings.join([synthetic.readings("a"), synthetic.readings("b")])
    assert document(two)["title"] == "2 images"
    assert document(synthetic.readings("a"))["title"] == "a"
    assert document(two, title="Two scenes")["title"] == "Two scenes"
