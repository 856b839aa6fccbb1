import itertools
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats import contingency_tables, multitest, proportion

from evaluation.made_up import patch, study, verdicts
from patchlens.errors import OptionError, StudyError
from patchlens.evaluation.intervals import clustered, wilson
from patchlens.evaluation.metrics import (
    Comparison,
    Series,
    Tally,
    against_baselines,
    by_rank,
    candidates,
    interpretability,
    over_layers,
    paired,
    sheets,
)
from patchlens.evaluation.records import VERDICTS_TABLE
from patchlens.evaluation.statistics import Paired, minimum_detectable_effect, minimum_detectable_paired_effect
from patchlens.evaluation.verdict import INTERPRETABLE, UNDECIDED, VERDICTS

LINES = (("latent", None), ("logit", None), ("latent", "another image"), ("random", "random rows"))

Place = tuple[Any, ...]


@st.composite
def tables(draw: st.DrawFn, *, regions: int = 1) -> pa.Table:
    """Small tables with everything missing somewhere, in any order."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    most = draw(st.integers(1, 6))
    answers = (*VERDICTS, *("unrelated",) * draw(st.integers(0, 8)), *UNDECIDED[: draw(st.integers(0, 5))])
    rows = []
    for judge, (lens, baseline), layer, image, region in itertools.product(
        ("truth", "Ada"), LINES, (0, 3), ("a.jpg", "b.jpg", "c.jpg", "d.jpg"), range(regions)
    ):
        said = [answers[number] for number in rng.integers(len(answers), size=rng.integers(most + 1))]
        where = {"judge": judge, "lens": lens, "baseline": baseline, "layer": layer, "image": image, "row": region}
        rows += patch(said, **where)
    rows += [row | {"image": "e.jpg", "row": 0} for row in patch(["concrete"]) + patch(["unrelated"], lens="logit")]
    return verdicts([rows[number] for number in rng.permutation(len(rows))])


def slowly(table: pa.Table, top: int = 5) -> dict[Place, dict[Place, str]]:
    """What is decided of each patch: (series, layer) to (image, tile, row, column) to a verdict or a reason."""
    said: dict[Place, dict[Place, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in table.to_pylist():
        if row["rank"] <= top:
            series = Series(row["judge"], row["model"], row["lens"], row["baseline"])
            place = tuple(row[name] for name in ("image", "tile", "row", "column"))
            said[series, row["layer"]][place].append(row["verdict"] or row["undecided"])
    return {key: {place: _one(given) for place, given in of.items()} for key, of in said.items()}


def _one(given: list[str]) -> str:
    for answer in (*INTERPRETABLE, *UNDECIDED):
        if answer in given:
            return answer
    return "unrelated"


def by_image(found: dict[Place, str]) -> Iterator[tuple[int, int]]:
    """Hits and decided patches of each image."""
    for image in {place[0] for place in found}:
        decided = [said for place, said in found.items() if place[0] == image and said in VERDICTS]
        yield sum(said in INTERPRETABLE for said in decided), len(decided)


class TestInterpretability:
    @settings(deadline=None, max_examples=40)
    @given(tables(), st.integers(1, 6))
    def test_agrees_with_counting_one_by_one(self, table: pa.Table, top: int) -> None:
        expected = slowly(table, top)
        found = {(tally.series, tally.layer): tally for tally in interpretability(table, top=top)}
        assert found.keys() == expected.keys()
        for key, tally in found.items():
            said = list(expected[key].values())
            assert tally.counts == tuple(said.count(verdict) for verdict in VERDICTS)
            assert tally.undecided == tuple(said.count(reason) for reason in UNDECIDED)
            assert tally.hits == sum(answer in INTERPRETABLE for answer in said)
            assert tally.images == tally.decided == sum(answer in VERDICTS for answer in said)
            if tally.decided:
                assert tally.share == tally.hits / tally.decided
                interval = proportion.proportion_confint(tally.hits, tally.decided, method="wilson")
                assert (tally.low, tally.high) == pytest.approx(interval, abs=1e-6)
                assert tally.detectable == minimum_detectable_effect(tally.images, share=tally.share)
            else:
                assert (tally.share, tally.low, tally.high, tally.detectable) == (None, 0.0, 1.0, None)

    @settings(deadline=None, max_examples=20)
    @given(tables(regions=2))
    def test_several_patches_of_an_image_are_no_independent_trials(self, table: pa.Table) -> None:
        expected = slowly(table)
        for tally in interpretability(table):
            hits, trials = np.array(list(by_image(expected[tally.series, tally.layer]))).T
            assert tally.images == (trials > 0).sum()
            if trials.max() > 1:
                assert (tally.low, tally.high) == pytest.approx(clustered(hits, trials))

    @pytest.mark.parametrize(
        ("said", "expected"),
        [
            (["unrelated", "global", "abstract", "concrete"], "concrete"),
            (["unrelated", "global", "timeout"], "global"),
            (["unrelated", "timeout", "unreadable"], "unreadable"),
            (["refused"], "refused"),
            (["unrelated"] * 5 + ["concrete"], "unrelated"),
        ],
    )
    def test_the_best_of_five_decides_and_the_undecided_are_never_a_no(self, said: list[str], expected: str) -> None:
        (tally,) = interpretability(verdicts(patch(said)))
        counted = dict(zip((*VERDICTS, *UNDECIDED), (*tally.counts, *tally.undecided), strict=True))
        assert counted == dict.fromkeys(counted, 0) | {expected: 1}

    def test_only_the_best_candidate_decides_pass_at_1(self) -> None:
        table = verdicts(patch(["unrelated", "concrete"]) + patch(["global"], image="street.jpg"))
        (five,), (one,) = interpretability(table), interpretability(table, top=1)
        assert (five.share, one.share) == (1.0, 0.5)

    def test_series_and_layers_are_in_the_order_of_the_rows_and_of_depth(self) -> None:
        rows = patch(["concrete"], lens="z", layer=9) + patch(["concrete"], lens="a", layer=2)
        rows += patch(["concrete"], lens="z", layer=2)
        found = [(tally.series.lens, tally.layer) for tally in interpretability(verdicts(rows))]
        assert found == [("z", 2), ("z", 9), ("a", 2)]

    def test_an_image_in_two_tiles_has_two_patches(self) -> None:
        (tally,) = interpretability(verdicts(patch(["concrete"], tile=0) + patch(["unrelated"], tile=1)))
        assert (tally.decided, tally.images, tally.share) == (2, 1, 0.5)

    def test_of_no_rows_nothing_is_said(self) -> None:
        empty = VERDICTS_TABLE.empty_table()
        assert sheets(empty) == interpretability(empty) == over_layers(empty) == paired(empty) == by_rank(empty) == ()

    def test_parts_with_names_of_their_own_are_joined(self) -> None:
        """Parquet files of parts come with dictionaries that number the same names otherwise."""
        parts = [verdicts(patch(["concrete"], image=image, layer=layer)) for image, layer in (("b", 1), ("a", 1))]
        (tally,) = interpretability(pa.concat_tables([parts[0], parts[1]]))
        assert tally.images == 2

    @pytest.mark.parametrize("top", [0, -1])
    def test_no_candidate_is_no_measure(self, top: int) -> None:
        for measure in (interpretability, candidates, over_layers, paired, against_baselines):
            with pytest.raises(OptionError, match="Expected at least 1"):
                measure(verdicts(patch(["concrete"])), top=top)

    def test_a_candidate_judged_twice_is_refused(self) -> None:
        rows = [*patch(["concrete", "global"]), {"rank": 2, "verdict": "unrelated", "rubric": "sentence"}]
        with pytest.raises(StudyError, match=r"candidate 2 of kitchen.jpg at layer 0 .* 2 times \(rubrics: patch, sen"):
            interpretability(verdicts(rows))

    def test_an_unknown_verdict_is_refused(self) -> None:
        with pytest.raises(StudyError, match=r"one of kitchen\.jpg says 'maybe'\. Expected one of concrete, abstract"):
            interpretability(verdicts([{"verdict": "maybe"}]))
        with pytest.raises(StudyError, match="says None"):
            interpretability(verdicts([{"verdict": None}]))


class TestKinds:
    @settings(deadline=None, max_examples=20)
    @given(tables(), st.sampled_from(VERDICTS))
    def test_one_verdict_is_counted_of_the_same_patches(self, table: pa.Table, kind: str) -> None:
        for measure in (interpretability, candidates):
            for whole, part in zip(measure(table), measure(table, kind=kind), strict=True):
                assert (part.kind, part.series, part.layer) == (kind, whole.series, whole.layer)
                assert (part.counts, part.undecided, part.images) == (whole.counts, whole.undecided, whole.images)
                assert part.hits == whole.counts[VERDICTS.index(kind)]
        for tally in interpretability(table, kind=kind):
            if tally.decided:
                interval = proportion.proportion_confint(tally.hits, tally.decided, method="wilson")
                assert (tally.low, tally.high) == pytest.approx(interval, abs=1e-6)

    @settings(deadline=None, max_examples=20)
    @given(tables())
    def test_all_layers_together_are_the_sum_of_the_layers(self, table: pa.Table) -> None:
        for measure in (interpretability, candidates):
            by_layer: dict[Series, list[Tally]] = defaultdict(list)
            for tally in measure(table):
                by_layer[tally.series].append(tally)
            together = measure(table, by_layer=False)
            assert [tally.series for tally in together] == list(by_layer)
            for tally in together:
                parts = by_layer[tally.series]
                assert tally.layer is None
                assert tally.counts == tuple(np.sum([part.counts for part in parts], 0))
                assert tally.undecided == tuple(np.sum([part.undecided for part in parts], 0))

    def test_an_unknown_kind_is_refused(self) -> None:
        with pytest.raises(OptionError, match="'vivid' were to be counted"):
            interpretability(verdicts(patch(["concrete"])), kind="vivid")


class TestCandidates:
    @settings(deadline=None, max_examples=30)
    @given(tables(), st.integers(1, 6))
    def test_agree_with_counting_one_by_one(self, table: pa.Table, top: int) -> None:
        expected: dict[Place, list[tuple[str, str]]] = defaultdict(list)
        for row in table.to_pylist():
            if row["rank"] <= top:
                series = Series(row["judge"], row["model"], row["lens"], row["baseline"])
                expected[series, row["layer"]].append((row["image"], row["verdict"] or row["undecided"]))
        found = candidates(table, top=top)
        assert {(tally.series, tally.layer) for tally in found} == expected.keys()
        for tally in found:
            _check(tally, expected[tally.series, tally.layer])

    @settings(deadline=None, max_examples=30)
    @given(tables())
    def test_by_rank_agree_with_counting_one_by_one(self, table: pa.Table) -> None:
        expected: dict[Place, list[tuple[str, str]]] = defaultdict(list)
        for row in table.to_pylist():
            series = Series(row["judge"], row["model"], row["lens"], row["baseline"])
            expected[series, row["rank"]].append((row["image"], row["verdict"] or row["undecided"]))
        found = by_rank(table)
        assert {(tally.series, tally.rank) for tally in found} == expected.keys()
        for tally in found:
            assert tally.layer is None
            _check(tally, expected[tally.series, tally.rank])


def _check(tally: Tally, given: list[tuple[str, str]]) -> None:
    """Against the answers to all candidates, with their images."""
    said = [answer for _, answer in given]
    assert tally.counts == tuple(said.count(verdict) for verdict in VERDICTS)
    assert tally.undecided == tuple(said.count(reason) for reason in UNDECIDED)
    decided = [(image, answer in INTERPRETABLE) for image, answer in given if answer in VERDICTS]
    images = sorted({image for image, _ in decided})
    assert tally.images == len(images)
    hits = np.array([sum(hit for at, hit in decided if at == image) for image in images])
    trials = np.array([sum(at == image for at, _ in decided) for image in images])
    if len(images) and trials.max() > 1:
        assert (tally.low, tally.high) == pytest.approx(clustered(hits, trials))


class TestOverLayers:
    @settings(deadline=None, max_examples=20)
    @given(tables())
    def test_agrees_with_the_mean_of_the_layers(self, table: pa.Table) -> None:
        shares: dict[Series, dict[int | None, float]] = defaultdict(dict)
        for tally in interpretability(table):
            if tally.share is not None:
                shares[tally.series][tally.layer] = tally.share
        found = over_layers(table)
        assert {mean.series for mean in found} == shares.keys()
        for mean in found:
            assert mean.layers == tuple(shares[mean.series])
            assert mean.value == pytest.approx(np.mean(list(shares[mean.series].values())))
            if mean.low is not None and mean.high is not None:
                assert 0 <= mean.low <= mean.high <= 1

    def test_the_interval_is_that_of_images_however_many_layers_there_are(self) -> None:
        """Layers that say the same add nothing: the interval is as wide as that of one layer."""
        rng = np.random.default_rng(0)
        said = ["concrete" if hit else "unrelated" for hit in rng.random(200) < 0.4]
        rows = [
            {"image": f"{number}.jpg", "layer": layer, "verdict": verdict}
            for number, verdict in enumerate(said)
            for layer in range(30)
        ]
        (mean,) = over_layers(verdicts(rows))
        assert mean.images == 200
        assert mean.low is not None
        assert mean.high is not None
        half = 1.96 * (0.4 * 0.6 / 200) ** 0.5
        assert (mean.high - mean.low) / 2 == pytest.approx(half, rel=0.08)

    def test_one_image_tells_little(self) -> None:
        (mean,) = over_layers(verdicts(patch(["concrete"]) + patch(["unrelated"], layer=1)))
        assert (mean.value, mean.low, mean.high, mean.layers) == (0.5, None, None, (0, 1))

    @pytest.mark.parametrize(("said", "hits"), [("concrete", 40), ("unrelated", 0)])
    def test_no_hit_in_many_images_is_not_proof_of_none(self, said: str, hits: int) -> None:
        rows = [{"image": f"{image}", "layer": layer, "verdict": said} for image in range(40) for layer in (0, 1)]
        (mean,) = over_layers(verdicts(rows))
        assert (mean.low, mean.high) == wilson(hits, 40)


class TestPaired:
    @settings(deadline=None, max_examples=8)
    @given(tables())
    def test_agrees_with_tests_of_the_same_patches_one_by_one(self, table: pa.Table) -> None:
        expected = slowly(table)
        found = paired(table, [("latent", "logit")])
        tested: dict[str, list[Comparison]] = defaultdict(list)
        for comparison in found:
            assert (comparison.first.lens, comparison.second.lens) == ("latent", "logit")
            assert comparison.first.baseline is comparison.second.baseline is None
            layers = (0, 3) if comparison.layer is None else (comparison.layer,)
            differences = []
            for layer in layers:
                one = expected.get((comparison.first, layer), {})
                other = expected.get((comparison.second, layer), {})
                answers = [
                    (one[place] in INTERPRETABLE, other[place] in INTERPRETABLE)
                    for place in one
                    if one[place] in VERDICTS and other.get(place) in VERDICTS
                ]
                if answers:
                    differences.append(np.mean([int(a) - int(b) for a, b in answers]))
            if not differences:
                assert (comparison.patches, comparison.difference, comparison.p) == (0, None, None)
                continue
            assert comparison.difference == pytest.approx(np.mean(differences))
            if comparison.layer is None:
                assert comparison.p is comparison.adjusted is None
                continue
            assert comparison.patches == comparison.images == len(answers)
            square = [[answers.count((a, b)) for b in (True, False)] for a in (True, False)]
            discordant = square[0][1] + square[1][0]
            p = contingency_tables.mcnemar(square, exact=True).pvalue if discordant else 1.0
            assert comparison.p == pytest.approx(min(1.0, p))
            detectable = (
                minimum_detectable_paired_effect(len(answers), discordance=discordant / len(answers))
                if discordant
                else None
            )
            assert comparison.detectable == detectable
            tested[comparison.first.judge].append(comparison)
        for of_judge in tested.values():
            adjusted = multitest.multipletests([comparison.p for comparison in of_judge], method="holm")[1]
            assert [comparison.adjusted for comparison in of_judge] == pytest.approx(list(adjusted))
            assert {comparison.family for comparison in of_judge} == {len(of_judge)}

    def test_every_two_lenses_and_all_layers_are_one_family(self) -> None:
        table = study(images=30, layers=(0, 4, 8), baselines=False)
        found = paired(table)
        assert len(found) == 3 * (3 + 1)
        assert {comparison.family for comparison in found if comparison.layer is not None} == {9}
        assert {comparison.family for comparison in found if comparison.layer is None} == {0}
        swapped = paired(table, [("logit", "latent")])
        assert swapped[0].difference == pytest.approx(-(found[0].difference or 0))
        assert swapped[0].p == found[0].p

    def test_undecided_patches_are_no_pairs(self) -> None:
        rows = [
            *patch(["concrete"], lens="latent"),
            *patch(["timeout"], lens="logit"),
            *patch(["concrete"], lens="latent", image="street.jpg"),
            *patch(["unrelated"], lens="logit", image="street.jpg"),
        ]
        here, over = paired(verdicts(rows))
        assert (here.patches, here.difference, here.p) == (1, 1.0, 1.0)
        assert (over.patches, over.images, over.difference) == (1, 1, 1.0)

    def test_several_patches_of_an_image_make_one_sign(self) -> None:
        """Six images of ten patches each: taken for sixty trials, the difference would seem sure."""
        rows = []
        for image in range(6):
            for row in range(10):
                hit = "concrete" if image < 4 else "unrelated"
                rows += patch([hit], image=f"{image}.jpg", row=row, lens="latent")
                some = (
                    "global" if image < 5 and row == 0 else "unrelated"
                )  # one hit is less than ten, and more than none
                rows += patch([some], image=f"{image}.jpg", row=row, lens="logit")
        here, _ = paired(verdicts(rows))
        assert (here.patches, here.images) == (60, 6)
        assert here.p == pytest.approx(2 * 6 * 0.5**5)  # four images for the first, one for the second
        assert here.difference == pytest.approx((40 - 5) / 60)
        assert here.low is not None
        assert here.high is not None
        assert here.high - here.low > 0.5

    @pytest.mark.parametrize(
        ("first", "second", "pairs"),
        [
            ("concrete", "unrelated", Paired(0, 30, 0, 0)),
            ("unrelated", "concrete", Paired(0, 0, 30, 0)),
            ("unrelated", "unrelated", Paired(0, 0, 0, 30)),
        ],
    )
    def test_a_difference_that_never_varies_is_not_known_exactly(self, first: str, second: str, pairs: Paired) -> None:
        rows = [
            {"image": f"{image}", "layer": layer, "lens": lens, "verdict": verdict}
            for image in range(30)
            for layer in (0, 1)
            for lens, verdict in (("latent", first), ("logit", second))
        ]
        over = paired(verdicts(rows))[-1]
        assert (over.layer, over.difference, (over.low, over.high)) == (None, pairs.difference, pairs.interval)

    def test_a_lens_that_was_not_judged_is_refused(self) -> None:
        with pytest.raises(OptionError, match=r"no verdict on 'tuned'; there are verdicts on latent\."):
            paired(verdicts(patch(["concrete"])), [("latent", "tuned")])

    def test_a_model_without_one_of_the_lenses_is_passed_over(self) -> None:
        rows = patch(["concrete"], model="a") + patch(["concrete"], model="a", lens="logit")
        found = paired(verdicts(rows + patch(["concrete"], model="b")))
        assert {comparison.first.model for comparison in found} == {"a"}


class TestAgainstBaselines:
    def test_every_lens_meets_its_own_other_image_and_random_rows(self) -> None:
        found = against_baselines(study(images=20, layers=(0, 5)))
        pairs = {(c.first.lens, c.second.lens, c.second.baseline) for c in found}
        lenses = ("latent", "logit", "embedding")
        assert pairs == {(lens, lens, "another image") for lens in lenses} | {
            (lens, "random", "random rows") for lens in lenses
        }
        assert {c.family for c in found if c.p is not None} == {6 * 2}

    def test_the_difference_is_of_the_same_patches(self) -> None:
        rows = []
        for number in range(8):
            rows += patch(["concrete"], image=f"{number}.jpg")
            rows += patch(["concrete" if number < 2 else "unrelated"], image=f"{number}.jpg", baseline="another image")
        rows += patch(["unrelated"], image="alone.jpg")
        here, over = against_baselines(verdicts(rows))
        assert (here.patches, here.difference, here.p) == (8, 0.75, pytest.approx(2 * 0.5**6))
        assert over.difference == 0.75


def test_a_long_study_is_counted_in_seconds() -> None:
    """Forty layers, three lenses, both baselines: 140,000 rows."""
    table = study(layers=range(40), images=100)
    found = interpretability(table)
    assert len(found) == 40 * 7
    assert len(table) == 40 * 7 * 100 * 5
