from statistics import fmean
from typing import Any

import pytest

from evaluation.made_up import patch, study, verdicts
from patchlens.analysis.finding import Finding
from patchlens.analysis.published import beside_published, published_table
from patchlens.analysis.rows import records
from patchlens.errors import OptionError, StudyError
from patchlens.evaluation import metrics
from patchlens.evaluation.intervals import wilson
from patchlens.evaluation.published import published

QWEN = study(models=("Qwen/Qwen2-VL-7B-Instruct",), images=30, layers=(0, 3, 8, 27))
TINY = study(models=("tiny",), images=30, layers=(0, 2, 4, 6))
OURS = {
    tally.layer: tally
    for tally in metrics.interpretability(QWEN)
    if (tally.series.lens, tally.series.baseline) == ("latent", None)
}
KNOWN = published().interpretability("Qwen2-VL-7B", "latent")


def of(finding: Finding, **where: Any) -> list[dict[str, Any]]:
    return [row for row in records(finding.table) if all(row[name] == value for name, value in where.items())]


class TestTheSameModel:
    def test_layers_that_either_has_lie_side_by_side(self) -> None:
        rows = of(beside_published(QWEN), lens="latent")
        layers = [row for row in rows if row["layer"] != "mean"]
        assert [row["layer"] for row in layers] == sorted({0, 3, 8, 27} | KNOWN.keys())
        for row in layers:
            assert (row["published model"], row["same model"]) == ("Qwen2-VL-7B", True)
            assert row["relative depth"] == row["layer"] / 28
            mine = OURS.get(row["layer"])
            assert row["share"] == (None if mine is None else mine.share)
            assert row["low"] == (None if mine is None else mine.low)
            if row["layer"] in KNOWN:
                assert row["published share"] == KNOWN[row["layer"]] / 100
                ends = wilson(round(KNOWN[row["layer"]]), 100)
                assert (row["published patches"], row["published low"], row["published high"]) == (100, *ends)
            else:
                assert row["published share"] is row["published patches"] is None

    def test_means_are_over_the_layers_that_both_have(self) -> None:
        (row,) = of(beside_published(QWEN), lens="latent", layer="mean")
        assert row["share"] == pytest.approx(fmean(OURS[layer].share or 0 for layer in (0, 8, 27)))
        assert row["published share"] == pytest.approx(fmean(KNOWN[layer] for layer in (0, 8, 27)) / 100)

    def test_it_may_have_another_name_here(self) -> None:
        table = study(models=("my qwen",), images=10, layers=(0, 8))
        with pytest.raises(StudyError, match="Nothing is published of my qwen"):
            beside_published(table)
        found = beside_published(table, models={"my qwen": "Qwen2-VL-7B"})
        assert set(found.table.column("same model")) == {True}
        with pytest.raises(OptionError, match="Nothing is published of the model 'Qwen3'"):
            beside_published(table, models={"my qwen": "Qwen3"})

    def test_both_curves_are_drawn_over_depth(self) -> None:
        finding = beside_published(QWEN)
        assert finding.draw is not None
        (axes,) = finding.draw().axes
        assert axes.get_title(loc="left").replace("\n", " ") == (
            "Qwen/Qwen2-VL-7B-Instruct; published: Qwen2-VL-7B, the same model"
        )
        lines = {(line.get_color(), line.get_linestyle()): line for line in axes.get_lines()}
        assert len(lines) == 6
        dashed, solid = lines["#009e73", "--"], lines["#009e73", "-"]
        assert list(dashed.get_xdata()) == [layer / 28 for layer in KNOWN]
        assert list(dashed.get_ydata()) == [percent / 100 for percent in KNOWN.values()]
        assert list(solid.get_xdata()) == [0, 3 / 28, 8 / 28, 27 / 28]

    def test_the_note_names_source_and_limits(self) -> None:
        note = beside_published(QWEN).note
        assert "arXiv 2602.00462 v4" in note
        assert "the paper's own images, patches, judge and rubric" in note
        assert "for orientation" not in note


class TestAnotherModel:
    def test_it_is_shown_when_asked_for_and_always_named_so(self) -> None:
        finding = beside_published(TINY, others=["OLMo+CLIP"])
        assert set(finding.table.column("same model")) == {False}
        assert "Not the model that was run, and shown for orientation alone: OLMo+CLIP." in finding.note
        assert finding.draw is not None
        (axes,) = finding.draw().axes
        assert axes.get_title(loc="left").endswith("OLMo+CLIP, another model")

    def test_each_has_its_own_depth(self) -> None:
        rows = of(beside_published(TINY, others=["OLMo+CLIP"]), lens="logit")
        layers = [row for row in rows if row["layer"] != "mean"]
        assert all((row["share"] is None) != (row["published share"] is None) for row in layers)
        ours = [row["relative depth"] for row in layers if row["share"] is not None]
        theirs = [row["relative depth"] for row in layers if row["share"] is None]
        assert ours == [0, 2 / 6, 4 / 6, 1]
        assert theirs == [layer / 32 for layer in published().interpretability("OLMo+CLIP", "logit")]
        deeper = of(beside_published(TINY, others=["OLMo+CLIP"], depths={"tiny": 8}), lens="logit", layer=6)
        assert deeper[0]["relative depth"] == 6 / 8

    def test_its_mean_is_over_all_of_its_layers(self) -> None:
        (row,) = of(beside_published(TINY, others=["OLMo+CLIP"]), lens="latent", layer="mean")
        assert row["published share"] == pytest.approx(0.723, abs=5e-4)

    def test_the_same_model_is_not_shown_as_another(self) -> None:
        found = beside_published(QWEN, others=["Qwen2-VL-7B", "OLMo+CLIP"])
        pairs = set(zip(found.table.column("published model"), found.table.column("same model"), strict=True))
        assert pairs == {("Qwen2-VL-7B", True), ("OLMo+CLIP", False)}

    def test_an_unknown_one_is_refused(self) -> None:
        with pytest.raises(OptionError, match="Nothing is published of the model 'Qwen3'"):
            beside_published(TINY, others=["Qwen3"])


def test_lenses_that_the_paper_has_not_are_left_out() -> None:
    table = verdicts(patch(["concrete"]) + patch(["concrete"], lens="latent, 1 % of the bank"))
    assert set(beside_published(table, others=["OLMo+CLIP"]).table.column("lens")) == {"latent"}
    with pytest.raises(StudyError, match=r"The verdicts are on tuned, and published are figures of latent, logit"):
        beside_published(verdicts(patch(["concrete"], lens="tuned")), others=["OLMo+CLIP"])


def test_a_published_table_comes_with_its_source() -> None:
    found = published_table("corpus_size")
    assert found.name == "published-corpus-size"
    assert ("1 %", 67.3, 70.2, 54.8, 76.8) in found.table.rows
    assert "section 4.5" in found.note
    assert found.draw is None
    with pytest.raises(OptionError, match=r"'speed' was asked for\. Known: corpus_size"):
        published_table("speed")


def test_every_published_table_can_be_shown() -> None:
    for name in published().tables:
        assert published_table(name).table.to_markdown()
