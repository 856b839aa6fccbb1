from collections.abc import Callable

import pyarrow as pa
import pytest

from evaluation.made_up import SHAPES, patch, study, verdicts
from patchlens.analysis.comparison import bank_sizes, baseline_tests, groups, paired_tests, variants
from patchlens.analysis.finding import Finding
from patchlens.analysis.rows import records
from patchlens.errors import OptionError, StudyError
from patchlens.evaluation import metrics
from patchlens.evaluation.records import VERDICTS_TABLE

SMALL = study(images=40, layers=(0, 4, 9), undecided=0.1)
SIZES = {"latent": 1.0, "latent, 10 % of the bank": 0.1, "latent, 1 % of the bank": 0.01}
OF_SIZES = study(images=40, layers=(0, 4, 9), lenses={lens: [0.4 + 0.3 * share] * 2 for lens, share in SIZES.items()})


class TestPairedTests:
    @pytest.mark.parametrize(
        ("analysis", "measure"), [(paired_tests, metrics.paired), (baseline_tests, metrics.against_baselines)]
    )
    def test_the_table_has_every_test(self, analysis: Callable[..., Finding], measure: Callable[..., object]) -> None:
        found = records(analysis(SMALL, top=3).table)
        for row, one in zip(found, measure(SMALL, top=3), strict=True):
            assert (row["judge"], row["model"], row["lens"]) == (one.first.judge, one.first.model, one.first.lens)
            assert (row["against"], row["baseline"]) == (one.second.lens, one.second.baseline)
            assert row["layer"] == ("mean" if one.layer is None else one.layer)
            assert (row["patches"], row["images"], row["top"]) == (one.patches, one.images, 3)
            assert (row["difference"], row["low"], row["high"]) == (one.difference, one.low, one.high)
            assert (row["p"], row["p (Holm)"], row["detectable difference"]) == (one.p, one.adjusted, one.detectable)
            assert row["tests"] == (one.family or None)

    def test_pairs_are_chosen(self) -> None:
        found = paired_tests(SMALL, [("logit", "latent")]).table
        assert set(zip(found.column("lens"), found.column("against"), strict=True)) == {("logit", "latent")}
        assert set(found.column("tests")) == {3, None}
        found = paired_tests(SMALL, lenses=["latent", "embedding"]).table
        assert set(zip(found.column("lens"), found.column("against"), strict=True)) == {("latent", "embedding")}

    def test_signs_are_filled_where_the_adjusted_p_is_small(self) -> None:
        rows = []
        for number in range(20):
            rows += patch(["concrete"], image=f"{number}", layer=0) + patch(["concrete"], image=f"{number}", layer=5)
            rows += patch(["unrelated"], image=f"{number}", layer=0, lens="logit")
            other = "unrelated" if number < 5 else "concrete"  # p = 0.0625, adjusted the same
            rows += patch([other], image=f"{number}", layer=5, lens="logit")
        found = paired_tests(verdicts(rows))
        assert found.table.column("p (Holm)")[:2] == pytest.approx((2 * 2 * 0.5**20, 0.0625))
        assert found.draw is not None
        (axes,) = found.draw().axes
        signs = {
            (float(x), float(y)): line.get_markerfacecolor() != "white"
            for line in axes.get_lines()
            if line.get_marker() == "^"
            for x, y in line.get_xydata()
        }
        assert signs == {(0.0, 1.0): True, (5.0, 0.25): False}
        assert axes.get_title(loc="left") == "LatentLens minus\N{NO-BREAK SPACE}…"

    def test_the_note_states_the_family_and_the_unit(self) -> None:
        note = paired_tests(SMALL).note
        assert "all pairs of lenses and layers of one judge and model (9 tests)" in note
        assert "McNemar's, exact" in note
        assert "all lenses, baselines and layers of one judge and model (18 tests)" in baseline_tests(SMALL).note
        several = [
            row
            for place in range(2)
            for lens, verdict in (("latent", "concrete"), ("logit", "unrelated"))
            for image in "abc"
            for row in patch([verdict], lens=lens, image=image, row=place)
        ]
        assert "exact sign test" in paired_tests(verdicts(several)).note

    def test_one_image_with_several_patches_can_be_drawn(self) -> None:
        rows = [
            row
            for place, verdict in enumerate(["concrete", "unrelated"])
            for lens in ("latent", "logit")
            for row in patch([verdict], lens=lens, row=place)
        ]
        found = paired_tests(verdicts(rows))
        assert found.table.column("low") == (None, None)
        assert found.draw is not None
        found.draw()

    def test_with_nothing_to_compare_it_says_so(self) -> None:
        alone = verdicts(patch(["concrete"]))
        with pytest.raises(StudyError, match="Have a second lens judged, or baselines"):
            paired_tests(alone)
        with pytest.raises(StudyError, match="Have a second lens judged, or baselines"):
            baseline_tests(alone)
        with pytest.raises(StudyError, match="no verdicts"):
            paired_tests(VERDICTS_TABLE.empty_table())
        with pytest.raises(OptionError, match="'tuned'"):
            paired_tests(SMALL, [("latent", "tuned")])

    def test_pairs_without_a_patch_decided_for_both_are_not_drawn(self) -> None:
        found = paired_tests(verdicts(patch(["concrete"]) + patch(["timeout"], lens="logit")))
        assert found.draw is None
        assert "no images" in found.note


class TestBankSizes:
    def test_each_size_is_held_against_all_of_the_bank(self) -> None:
        found = records(bank_sizes(OF_SIZES, SIZES).table)
        means = {mean.series.lens: mean for mean in metrics.over_layers(OF_SIZES) if mean.series.baseline is None}
        pairs = [(lens, "latent") for lens in list(SIZES)[1:]]
        tests = {(one.first.lens, one.layer): one for one in metrics.paired(OF_SIZES, pairs)}
        for row in found:
            if row["baseline"] is not None:
                assert (row["lens"], row["value"], row["difference"]) == ("random", None, None)
                continue
            assert row["value"] == 100 * SIZES[row["lens"]]
            if row["layer"] == "mean":
                mean = means[row["lens"]]
                assert (row["share"], row["low"], row["high"]) == (mean.value, mean.low, mean.high)
            one = tests.get((row["lens"], None if row["layer"] == "mean" else row["layer"]))
            assert (one is None) == (row["lens"] == "latent") == (row["against"] is None)
            if one is not None:
                assert row["against"] == 100
                assert (row["difference"], row["difference low"], row["p (Holm)"]) == (
                    *(one.difference, one.low, one.adjusted),
                )
        assert {row["layer"] for row in found} == {"mean", 0, 4, 9}

    def test_the_curve_is_over_the_logarithm(self) -> None:
        found = bank_sizes(OF_SIZES, SIZES)
        assert found.draw is not None
        of_means, of_layers = found.draw().axes
        assert (of_means.get_xscale(), of_means.get_xlabel()) == ("log", "percent of the bank")
        curve = next(line for line in of_means.get_lines() if len(line.get_xdata()) == 3)
        assert list(curve.get_xdata()) == [1, 10, 100]
        means = [row for row in records(found.table) if row["layer"] == "mean" and row["baseline"] is None]
        assert list(curve.get_ydata()) == [row["share"] for row in sorted(means, key=lambda row: row["value"])]
        names = {text.get_text() for text in of_layers.texts}
        assert {"1 %", "10 %", "100 %", "random rows"} <= names
        assert found.name == "bank-sizes"

    def test_one_size_is_no_comparison(self) -> None:
        with pytest.raises(OptionError, match="there is only latent"):
            bank_sizes(OF_SIZES, {"latent": 1.0})


class TestGroups:
    def test_every_group_is_compared_by_itself(self) -> None:
        lenses = {
            "latent": SHAPES["latent"],
            "captions": SHAPES["logit"],
            "cap 5": SHAPES["embedding"],
            "cap 20": [0.6],
        }
        table = study(images=20, layers=(0, 5), lenses=lenses)
        members = {
            "latent": ("corpus", "phrases"),
            "captions": ("corpus", "captions of photographs, cut to one sentence each"),
        }
        (corpus,) = groups(table, members)
        assert corpus.name == "compared-by-corpus"
        assert set(corpus.table.column("against")) == {None, "phrases"}
        assert corpus.draw is not None
        of_means, _ = corpus.draw().axes
        rows = [label.get_text().replace("\n", " ") for label in of_means.get_yticklabels()]
        assert rows == ["phrases", "captions of photographs, cut to one sentence each", "random rows"]
        found = groups(table, {**members, "cap 5": ("cap per token", 5), "cap 20": ("cap per token", 20)}, top=1)
        assert [finding.name for finding in found] == ["compared-by-corpus-top-1", "compared-by-cap-per-token-top-1"]

    def test_numbers_are_held_against_the_largest(self) -> None:
        members: dict[str, tuple[str, int | float | str]] = {
            "latent": ("cap", 5),
            "latent, 10 % of the bank": ("cap", 50),
            "latent, 1 % of the bank": ("cap", 0),
        }
        (found,) = groups(OF_SIZES, members)
        assert set(found.table.column("against")) == {None, 50}
        assert found.draw is not None
        assert found.draw().axes[0].get_xscale() == "linear"  # zero has no logarithm

    def test_a_model_without_the_variants_is_left_out(self) -> None:
        other = study(models=("other",), lenses={"logit": [0.5]}, images=10, layers=(0, 4, 9))
        found = variants(pa.concat_tables([OF_SIZES, other]), "rows", {"latent": 100, "latent, 1 % of the bank": 1})
        assert "other" not in found.table.column("model")

    def test_a_lens_without_verdicts_is_refused(self) -> None:
        with pytest.raises(OptionError, match="'captions'"):
            groups(OF_SIZES, {"latent": ("corpus", "phrases"), "captions": ("corpus", "captions")})
