from collections import Counter
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from tests.analysis.tables import candidates, drawn, made_up, records

from patchlens.analysis.bank_size import bank_size
from patchlens.analysis.overlap import overlap
from patchlens.errors import OptionError, StudyError

SHARES = {"latent": 1.0, "a tenth": 0.1, "a thousandth": 0.001}


def test_every_number_is_what_a_loop_finds() -> None:
    table = made_up(models=("tiny", "other"), lenses=(*SHARES, "logit"), words=("dog", "cat", "Dog", "sun"))
    rows = table.to_pylist()
    found = records(bank_size(table, SHARES, k=4))
    assert len(found) == 2 * 3 * 3
    assert [row["share of the bank"] for row in found[:9:3]] == [0.001, 0.1, 1.0]

    def words(model: str, lens: str, layer: int) -> dict[Any, Counter[str]]:
        said: dict[Any, Counter[str]] = {}
        for row in rows:
            if (row["model"], row["lens"], row["layer"]) == (model, lens, layer) and row["rank"] <= 4:
                said.setdefault((row["image"], row["row"], row["column"]), Counter())[row["word"].lower()] += 1
        return said

    for cell in found:
        part = words(cell["model"], cell["lens"], cell["layer"])
        whole = words(cell["model"], "latent", cell["layer"])
        assert (cell["images"], cell["patches"]) == (6, len(part))
        common = [(part[patch] & whole[patch]).total() for patch in part]
        assert cell["words in common"] == pytest.approx(np.mean(common))
        pairs = [(part[a] & whole[b]).total() for a in part for b in whole if a[0] != b[0]]
        assert cell["words by chance"] == pytest.approx(np.mean(pairs))
        keys = ("model", "lens", "layer")
        cosines = [row["similarity"] for row in rows if row["rank"] == 1 and all(row[k] == cell[k] for k in keys)]
        assert cell["mean cosine"] == pytest.approx(np.mean(cosines))
        assert cell["low words"] <= cell["words in common"] <= cell["high words"]
        if cell["share of the bank"] == 1:
            assert cell["words in common"] == 4


def test_it_agrees_with_the_overlap_of_both() -> None:
    table = made_up(lenses=("latent", "a tenth"))
    part, whole = (table.filter(pc.equal(table["lens"], lens)) for lens in ("a tenth", "latent"))
    expected = [
        row for row in records(overlap(part, whole, names=("a tenth", "all"), apart=())) if row["of"] == "words"
    ]
    found = [row for row in records(bank_size(table, SHARES)) if row["lens"] == "a tenth"]
    names = {"overlap": "words in common", "low": "low words", "high": "high words", "chance": "words by chance"}
    for one, other in zip(found, expected, strict=True):
        assert [one[name] for name in names.values()] == [other[name] for name in names]


def test_only_models_with_a_part_and_the_whole_are_compared() -> None:
    rows = [
        *({"model": "tiny", "lens": lens, "similarity": 0.5} for lens in ("latent", "a tenth")),
        {"model": "other", "lens": "a tenth", "similarity": 0.5},
        {"model": "third", "lens": "latent", "similarity": 0.5},
        {"model": "tiny", "lens": "a tenth", "image": "b.png", "baseline": "another image"},
    ]
    found = bank_size(candidates(rows), SHARES)
    assert {(row["model"], row["images"]) for row in records(found)} == {("tiny", 1)}
    assert drawn(found)


def test_a_lens_without_similarity_has_none() -> None:
    found = bank_size(candidates([{"lens": "latent"}, {"lens": "a tenth"}]), SHARES)
    assert {row["mean cosine"] for row in records(found)} == {None}
    assert drawn(found)


def test_the_figure_has_two_panels_for_each_model() -> None:
    found = bank_size(made_up(models=("tiny", "other"), lenses=tuple(SHARES)), SHARES)
    assert drawn(found)
    panels = found.draw().axes
    assert [axes.get_title(loc="left") for axes in panels] == [
        *("tiny: words in common", "tiny: nearest candidate"),
        *("other: words in common", "other: nearest candidate"),
    ]
    assert {text.get_text() for text in panels[0].texts} == {"10 %", "0.1 %"}
    assert {text.get_text() for text in panels[1].texts} == {"10 %", "0.1 %", "100 %"}


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"latent": 0.5}, "0 have 1"),
        ({}, r"given \(none\)"),
        ({"latent": 1.0, "a tenth": 1.0}, "2 have 1"),
        ({"latent": 1.0, "a tenth": 10.0}, r"'a tenth' has 10\.0"),
        ({"latent": 1.0, "a tenth": 0.0}, r"'a tenth' has 0\.0"),
    ],
)
def test_shares_that_are_none_are_refused(shares: dict[str, float], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        bank_size(made_up(), shares)


@pytest.mark.parametrize(
    ("lenses", "known"), [((), "none"), (("latent",), "'latent'"), (("a tenth", "logit"), "'a tenth', 'logit'")]
)
def test_without_both_there_is_nothing_to_compare(lenses: tuple[str, ...], known: str) -> None:
    with pytest.raises(StudyError, match=rf"both with 'latent' and with a part .* in these records are {known}\."):
        bank_size(made_up(lenses=lenses), SHARES)
