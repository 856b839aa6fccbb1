from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.analysis.tables import candidates, drawn, made_up, records

from patchlens.analysis.overlap import OF, overlap
from patchlens.errors import OptionError, StudyError

NAMES = ("one bank", "another")


def said(table: pa.Table, of: str, k: int) -> dict[tuple[Any, ...], Counter[Any]]:
    """By (layer, image, patch), one row at a time."""
    found: dict[tuple[Any, ...], Counter[Any]] = {}
    for row in table.to_pylist():
        text = row["word"].lower() if of == "words" else row["sentence"]
        if row["rank"] <= k and row["baseline"] is None and text is not None:
            key = (row["layer"], row["image"], row["tile"], row["row"], row["column"])
            found.setdefault(key, Counter())[text if of != "contexts" else (text, row["word_start"])] += 1
    return found


def slowly(first: pa.Table, second: pa.Table, of: str, k: int) -> dict[int, tuple[int, int, float, float | None]]:
    """Images, patches, overlap and chance per layer, every pair of readings compared."""
    one, other = said(first, of, k), said(second, of, k)
    shared = [key for key in one if key in other]
    found = {}
    for layer in {key[0] for key in shared}:
        here = [key for key in shared if key[0] == layer]
        pairs = [(one[a] & other[b]).total() for a in here for b in here if a[1] != b[1]]
        mean = float(np.mean([(one[key] & other[key]).total() for key in here]))
        found[layer] = (len({key[1] for key in here}), len(here), mean, float(np.mean(pairs)) if pairs else None)
    return found


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 999),
    st.integers(1, 4),
    st.integers(1, 5),
    st.lists(st.sampled_from(["dog", "Dog", "cat", "red"]), min_size=1, max_size=4, unique=True),
)
def test_every_number_is_what_comparing_all_pairs_finds(seed: int, images: int, k: int, words: list[str]) -> None:
    first = made_up(seed, lenses=("latent",), images=images, patches=3, words=words)
    second = made_up(seed + 1, lenses=("latent",), images=images + 1, patches=3, layers=(2, 5, 8), words=words)
    rows = np.random.default_rng(seed).permutation(second.num_rows)
    second = second.take(pa.array(rows)).filter(pc.not_equal(second["position"].take(pa.array(rows)), 4))
    found = records(overlap(first, second, names=NAMES, k=k))
    expected = {(of, layer): about for of in OF for layer, about in slowly(first, second, of, k).items()}
    assert {(row["of"], row["layer"]) for row in found} == expected.keys()
    for row in found:
        about = tuple(row[name] for name in ("images", "patches", "overlap", "chance"))
        assert about == pytest.approx(expected[row["of"], row["layer"]])
        assert (row["low"] is None) == (row["images"] == 1)


def test_readings_that_say_the_same_overlap_in_all_of_it() -> None:
    table = made_up(lenses=("latent", "logit"), words=("dog", "cat"))
    found = records(overlap(table, table, names=NAMES))
    assert {(row["lens"], row["of"]) for row in found} == {("latent", of) for of in OF} | {("logit", "words")}
    assert {(row["overlap"], row["low"], row["high"]) for row in found} == {(5.0, 5.0, 5.0)}


def test_a_word_counts_as_often_as_both_say_it_whatever_its_case() -> None:
    first = candidates({"rank": rank, "word": word} for rank, word in enumerate(["dog", "DOG", "red", "Dog"], 1))
    second = candidates({"rank": rank, "word": word} for rank, word in enumerate(["Dog", "cat", "doG", "cat"], 1))
    (row,) = records(overlap(first, second, names=NAMES))
    assert (row["of"], row["overlap"], row["chance"]) == ("words", 2.0, None)


def test_the_same_word_elsewhere_in_the_sentence_is_another_context() -> None:
    first = candidates([{"sentence": "A dog and a dog.", "word_start": 2}])
    second = candidates([{"sentence": "A dog and a dog.", "word_start": 12}])
    assert {row["of"]: row["overlap"] for row in records(overlap(first, second, names=NAMES))} == {
        **{"words": 1.0, "sentences": 1.0, "contexts": 0.0}
    }


def test_two_models_are_compared_by_patch_and_not_by_position() -> None:
    """Of one study, where they stand in sequences of different length; tokens without a patch go by position."""
    rows = [
        {"model": model, "position": position, "row": row, "column": row, "tile": row, "word": word}
        for model, position, row, word in [
            *(("tiny", 5, 0, "dog"), ("other", 9, 0, "dog"), ("tiny", 6, 1, "red"), ("other", 6, 2, "red")),
            *(("tiny", 50, None, "cat"), ("other", 50, None, "cat"), ("tiny", 51, None, "sun")),
        ]
    ]
    table = candidates(rows)
    one, other = (table.filter(pc.equal(table["model"], name)) for name in ("tiny", "other"))
    (row,) = records(overlap(one, other, names=("tiny", "other")))
    assert (row["patches"], row["overlap"], row["lens"], row["model"]) == (2, 1.0, "latent", None)
    assert (row["first"], row["second"]) == ("tiny", "other")


def test_models_and_lenses_are_kept_apart_where_asked() -> None:
    table = made_up(models=("tiny", "other"), lenses=("latent", "logit"))
    found = records(overlap(table, made_up(1, models=("tiny",)), names=NAMES, apart=("model", "lens")))
    assert {(row["model"], row["lens"]) for row in found} == {("tiny", "latent"), ("tiny", "logit")}
    with pytest.raises(StudyError, match=r"several candidates of rank 1 for one patch of 0\.png at layer 0"):
        overlap(table, table, names=NAMES)
    with pytest.raises(OptionError, match="kept apart by 'layer'"):
        overlap(table, table, names=NAMES, apart=("layer",))


@pytest.mark.parametrize(
    "second", [[], [{"layer": 9}], [{"image": "b.png"}], [{"lens": "logit"}], [{"baseline": "another image"}]]
)
def test_nothing_in_common_is_said(second: list[dict[str, Any]]) -> None:
    with pytest.raises(StudyError, match="one bank and another have no patch in common"):
        overlap(candidates([{}]), candidates(second), names=NAMES)


def test_the_figure_has_a_panel_for_each_model_and_lens() -> None:
    table = made_up(models=("tiny", "other"))
    found = overlap(table, made_up(1, models=("tiny", "other")), names=NAMES, apart=("model", "lens"))
    assert drawn(found)
    titles = [axes.get_title(loc="left") for axes in found.draw().axes]
    assert titles == ["tiny: LatentLens", "tiny: LogitLens", "other: LatentLens", "other: LogitLens"]
    alone = overlap(candidates([{}]), candidates([{}]), names=NAMES, apart=())
    assert drawn(alone)
    assert [axes.get_title(loc="left") for axes in alone.draw().axes] == ["one bank, another"]
