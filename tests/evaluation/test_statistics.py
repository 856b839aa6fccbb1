from collections.abc import Callable
from math import comb, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats import contingency_tables, multitest, proportion

from patchlens.errors import OptionError
from patchlens.evaluation import statistics
from patchlens.evaluation.intervals import Array, wilson
from patchlens.evaluation.statistics import (
    Paired,
    bootstrap,
    bootstrap_rows,
    cluster_sums,
    difference,
    holm,
    mcnemar,
    minimum_detectable_effect,
    minimum_detectable_paired_effect,
    ratio,
)

SHARES = np.linspace(0.02, 0.98, 13)


def answers(both: int, only_first: int, only_second: int, neither: int) -> tuple[Array, Array]:
    counts = [both, only_first, only_second, neither]
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


class TestPaired:
    @settings(deadline=None)
    @given(st.lists(st.integers(0, 40), min_size=4, max_size=4), st.randoms())
    def test_counts_the_four_kinds_of_pairs_in_any_order(self, counts, random) -> None:
        first, second = answers(*counts)
        order = list(range(len(first)))
        random.shuffle(order)
        found = mcnemar(first[order], second[order])
        assert found == Paired(*counts)
        assert found.pairs == sum(counts)
        if found.pairs:
            assert found.difference == pytest.approx(first.mean() - second.mean())

    @pytest.mark.parametrize(
        ("only_first", "only_second"), [(0, 0), (1, 0), (0, 6), (5, 5), (3, 11), (40, 21), (700, 600), (2600, 2400)]
    )
    def test_p_agrees_with_statsmodels(self, only_first: int, only_second: int) -> None:
        table = [[12, only_first], [only_second, 30]]
        expected = contingency_tables.mcnemar(table, exact=True).pvalue if only_first + only_second else 1.0
        assert Paired(12, only_first, only_second, 30).p == pytest.approx(min(1.0, expected), rel=1e-9)

    @pytest.mark.parametrize(("fewer", "discordant"), [(2, 9), (480, 1000), (1180, 2468)])
    def test_p_agrees_with_whole_numbers(self, fewer: int, discordant: int) -> None:
        tail = sum(comb(discordant, k) for k in range(fewer + 1))
        assert Paired(0, fewer, discordant - fewer, 0).p == pytest.approx(2 * tail / 2**discordant, rel=1e-9)

    def test_p_of_very_many_pairs_neither_overflows_nor_vanishes(self) -> None:
        assert Paired(0, 50_000, 51_000, 0).p == pytest.approx(stats.binomtest(50_000, 101_000).pvalue, rel=1e-6)
        assert Paired(0, 3_000, 0, 0).p == 2 * 0.5**3_000 == 0.0  # below the least number
        assert Paired(0, 0, 1_000, 0).p == pytest.approx(2 * 0.5**1_000)

    @pytest.mark.parametrize(
        ("counts", "low", "high"),
        [
            # Fagerland, Lydersen and Laake (2017), Statistical Analysis of Contingency Tables, chapter 8: responses to
            # consolidation therapy, and airways before and after a transplantation.
            ((59, 6, 16, 80), -0.1186, -0.0046),
            ((1, 1, 7, 12), -0.5069, -0.0256),
        ],
    )
    def test_the_interval_agrees_with_published_cases(self, counts, low: float, high: float) -> None:
        assert Paired(*counts).interval == pytest.approx((low, high), abs=1e-4)

    @settings(deadline=None)
    @given(st.lists(st.integers(0, 30), min_size=4, max_size=4))
    def test_the_interval_mirrors_and_holds_the_difference(self, counts) -> None:
        both, only_first, only_second, neither = counts
        found, mirrored = Paired(*counts), Paired(both, only_second, only_first, neither)
        low, high = found.interval
        assert -1 - 1e-12 <= low <= found.difference <= high <= 1 + 1e-12
        assert mirrored.interval == pytest.approx((-high, -low))
        assert mirrored.p == pytest.approx(found.p)

    def test_the_interval_covers_as_often_as_it_says(self) -> None:
        rng = np.random.default_rng(0)
        chances = np.array([0.5, 0.25, 0.1, 0.15])
        drawn = rng.multinomial(60, chances, size=3000)
        covered = [low <= 0.15 <= high for low, high in (Paired(*map(int, counts)).interval for counts in drawn)]
        assert 0.935 < np.mean(covered) < 0.97

    def test_without_an_answer_that_varies_the_arms_add_as_if_independent(self) -> None:
        """Then φ is undefined; both shares are sure, and each keeps the arm of its Wilson interval."""
        low, high = Paired(20, 0, 0, 0).interval
        arm = 1 - wilson(20, 20)[0]
        assert (low, high) == pytest.approx((-arm, arm))

    def test_no_pairs_say_nothing(self) -> None:
        nothing = mcnemar(np.zeros(0, bool), np.zeros(0, bool))
        assert (nothing.difference, nothing.interval, nothing.p) == (0.0, (-1.0, 1.0), 1.0)

    def test_prints_with_its_interval_and_test(self) -> None:
        assert str(Paired(36, 12, 2, 0)) == "+20.0 points [5.7, 34.0], p = 0.013"

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            (np.array([1, 0]), np.array([True, False])),
            (np.array([True]), np.array([True, False])),
            (np.array([[True]]), np.array([[True]])),
        ],
    )
    def test_what_is_no_pair_of_answers_is_refused(self, first: Array, second: Array) -> None:
        with pytest.raises(OptionError, match="Give two arrays of booleans"):
            mcnemar(first, second)


class TestHolm:
    @pytest.mark.parametrize("tests", [1, 2, 3, 9, 40])
    def test_agrees_with_statsmodels(self, tests: int) -> None:
        p_values = np.random.default_rng(tests).choice([0.0, 1e-9, 1.0, *np.linspace(0.001, 0.2, 30)], tests).tolist()
        expected = multitest.multipletests(p_values, method="holm")[1]
        assert holm(p_values) == pytest.approx(tuple(expected))

    @settings(deadline=None)
    @given(st.lists(st.floats(0, 1), max_size=30))
    def test_keeps_the_order_and_never_lowers(self, p_values) -> None:
        adjusted = holm(p_values)
        assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
        assert [adjusted[i] for i in np.argsort(p_values)] == sorted(adjusted)

    @pytest.mark.parametrize("wrong", [float("nan"), None, -0.1, 1.1, "0.2"])
    def test_what_is_no_p_value_is_refused(self, wrong) -> None:
        with pytest.raises(OptionError, match="p value 2 of 3 is"):
            holm(iter([0.1, wrong, 0.2]))  # an iterator, which the type checker of the tests leaves alone


def clustered_hits(clusters: int, seed: int = 0) -> tuple[Array, Array]:
    """Hits and trials of images whose patches resemble each other."""
    rng = np.random.default_rng(seed)
    trials = rng.integers(5, 20, clusters)
    return rng.binomial(trials, rng.beta(2, 2, clusters)), trials


class TestBootstrap:
    def test_sums_and_rows_give_the_same_interval(self) -> None:
        """A share by its sums, all draws at once, against its patches, stacked draw by draw."""
        hits, trials = clustered_hits(25)
        patches = [np.repeat([1.0, 0.0], [h, t - h]) for h, t in zip(hits, trials, strict=True)]
        fast = bootstrap(np.stack([hits, trials], 1), ratio, draws=300, seed=3)
        slow = bootstrap_rows(patches, lambda rows: float(rows.mean()), draws=300, seed=3)
        assert (fast.value, fast.low, fast.high) == pytest.approx((slow.value, slow.low, slow.high))
        assert fast.value == pytest.approx(hits.sum() / trials.sum())
        assert (fast.draws, slow.draws) == (300, 300)

    def test_agrees_with_scipy(self) -> None:
        values = np.random.default_rng(1).normal(size=80) ** 2
        ours = bootstrap(np.stack([values, np.ones(80)], 1), ratio, draws=8000, level=0.9)
        theirs = stats.bootstrap(
            (values,), np.mean, n_resamples=8000, confidence_level=0.9, method="percentile", rng=2
        ).confidence_interval
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)
        median = bootstrap_rows(list(values[:, None]), lambda rows: float(np.median(rows)))
        theirs = stats.bootstrap((values,), np.median, n_resamples=2000, method="percentile", rng=2)
        assert (median.low, median.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.06)

    def test_covers_as_often_as_it_says_where_patches_taken_for_independent_would_not(self) -> None:
        covered = naive = 0
        for seed in range(300):
            hits, trials = clustered_hits(60, seed)
            found = bootstrap(np.stack([hits, trials], 1), ratio, draws=400)
            low, high = wilson(int(hits.sum()), int(trials.sum()))
            covered += found.low <= 0.5 <= found.high
            naive += low <= 0.5 <= high
        assert 0.9 < covered / 300 < 0.98
        assert naive / 300 < 0.85

    def test_a_paired_difference_is_narrower_than_that_of_two_samples(self) -> None:
        rng = np.random.default_rng(0)
        trials = np.full(80, 9)
        first = rng.binomial(9, rng.beta(2, 2, 80))
        second = np.clip(first - rng.binomial(2, 0.5, 80), 0, 9)
        found = bootstrap(np.stack([first, second, trials], 1), difference)
        assert found.value == pytest.approx((first.sum() - second.sum()) / trials.sum())
        assert found.low > 0
        alone = bootstrap(np.stack([first, trials], 1), ratio)
        assert found.high - found.low < (alone.high - alone.low) / 2

    def test_the_seed_decides(self) -> None:
        sums = np.stack(clustered_hits(30), 1)
        assert bootstrap(sums, ratio) == bootstrap(sums, ratio, seed=0)
        assert bootstrap(sums, ratio) != bootstrap(sums, ratio, seed=1)

    def test_blocks_of_draws_change_nothing(self, monkeypatch) -> None:
        sums = np.stack(clustered_hits(30), 1)
        whole = bootstrap(sums, ratio, draws=500)
        monkeypatch.setattr(statistics, "_BLOCK", 30 * 64)
        assert bootstrap(sums, ratio, draws=500) == whole

    def test_a_higher_level_is_wider(self) -> None:
        sums = np.stack(clustered_hits(30), 1)
        narrow, wide = bootstrap(sums, ratio, level=0.5), bootstrap(sums, ratio, level=0.99)
        assert wide.low < narrow.low < narrow.value < narrow.high < wide.high

    def test_one_cluster_has_a_value_and_no_interval(self) -> None:
        found = bootstrap(np.array([[3, 4]]), ratio)
        assert (found.value, found.low, found.high, found.draws) == (0.75, None, None, 0)
        assert str(found) == "0.750 [–, –]"
        assert bootstrap_rows([np.array([1.0, 2.0])], lambda rows: float(rows.mean())).low is None

    def test_draws_without_a_value_are_left_out_and_counted(self) -> None:
        """Of two images one has no trial: a quarter of the draws takes that one twice."""
        found = bootstrap(np.array([[0, 0], [3, 4]]), ratio, draws=2000)
        assert (found.low, found.high) == (0.75, 0.75)
        assert found.draws == pytest.approx(1500, abs=90)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: bootstrap(np.zeros((0, 2)), ratio), "no cluster was given"),
            (lambda: bootstrap_rows([], lambda rows: 0.0), "no cluster was given"),
            (lambda: bootstrap(np.zeros((4, 2)), ratio), "The statistic of all 4 clusters is nan"),
            (lambda: bootstrap(np.ones((4, 2)), ratio, draws=0), "asked for 0 draws"),
            (lambda: bootstrap(np.ones((4, 2)), ratio, level=95.0), r"level of the interval is 95\.0"),
        ],
    )
    def test_what_cannot_be_resampled_is_refused(self, call: Callable[[], object], message: str) -> None:
        with pytest.raises(OptionError, match=message):
            call()

    def test_sums_by_cluster_agree_with_one_cluster_at_a_time(self) -> None:
        rng = np.random.default_rng(0)
        rows, images = rng.integers(0, 9, size=(50, 2, 3)), [f"{number}.jpg" for number in rng.integers(0, 8, 50)]
        sums = cluster_sums(rows, images)
        for name, total in zip(dict.fromkeys(images), sums, strict=True):
            np.testing.assert_array_equal(total, rows[[image == name for image in images]].sum(0))
        with pytest.raises(OptionError, match="50 items but the clusters of 49"):
            cluster_sums(rows, images[1:])


class TestMinimumDetectableEffect:
    @pytest.mark.parametrize("share", SHARES)
    def test_statsmodels_finds_it_as_often_as_asked(self, share: float) -> None:
        effect = minimum_detectable_effect(120, share=share, power=0.9, alpha=0.01)
        assert effect is not None
        other = share + effect * (1 if share <= 0.5 else -1)
        power = proportion.power_proportions_2indep(other - share, share, 120, alpha=0.01, return_results=False)
        assert power == pytest.approx(0.9, abs=1e-3)

    def test_simulated_samples_find_it_as_often_as_asked(self) -> None:
        rng = np.random.default_rng(0)
        effect = minimum_detectable_effect(150, share=0.7)
        first, second = rng.binomial(150, 0.7, 20_000) / 150, rng.binomial(150, 0.7 - effect, 20_000) / 150
        middle = (first + second) / 2
        found = abs(first - second) > 1.959964 * np.sqrt(2 * middle * (1 - middle) / 150)
        assert found.mean() == pytest.approx(0.8, abs=0.02)

    @pytest.mark.parametrize("share", SHARES)
    def test_on_the_other_side_less_is_found_too(self, share: float) -> None:
        effect = minimum_detectable_effect(400, share=share)
        away = share - effect if share <= 0.5 else share + effect
        if 0 <= away <= 1:
            power = proportion.power_proportions_2indep(away - share, share, 400, return_results=False)
            assert power >= 0.8 - 1e-3

    def test_a_paired_one_is_found_by_simulated_pairs_as_often_as_asked(self) -> None:
        rng = np.random.default_rng(0)
        n, discordance = 400, 0.3
        effect = minimum_detectable_paired_effect(n, discordance=discordance)
        chances = [(discordance + effect) / 2, (discordance - effect) / 2, 1 - discordance]
        first, second, _ = rng.multinomial(n, chances, size=20_000).T
        found = abs(first - second) > 1.959964 * np.sqrt(first + second)
        assert found.mean() == pytest.approx(0.8, abs=0.02)

    def test_the_paired_one_solves_its_quadratic(self) -> None:
        test, found, n, discordance = stats.norm.ppf(0.975), stats.norm.ppf(0.8), 250, 0.2
        root = test * sqrt(n) + found * sqrt(n + found**2 - test**2)
        expected = sqrt(discordance) * root / (n + found**2)
        assert minimum_detectable_paired_effect(n, discordance=discordance) == pytest.approx(expected)

    @settings(max_examples=30, deadline=None)
    @given(st.integers(20, 5000), st.floats(0, 1))
    def test_more_trials_find_less(self, n: int, share: float) -> None:
        assert minimum_detectable_effect(4 * n, share=share) < minimum_detectable_effect(n, share=share)

    def test_too_few_trials_find_nothing(self) -> None:
        assert minimum_detectable_effect(5) is None
        assert minimum_detectable_paired_effect(20, discordance=0.05) is None

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: minimum_detectable_effect(0), "at least one trial"),
            (lambda: minimum_detectable_effect(10, share=1.2), r"share is 1\.2"),
            (lambda: minimum_detectable_effect(10, power=80.0), r"power is 80\.0"),
            (lambda: minimum_detectable_effect(10, alpha=0.0), r"level of the test is 0\.0"),
            (lambda: minimum_detectable_paired_effect(10, discordance=0.0), r"discordance is 0\.0"),
        ],
    )
    def test_options_out_of_range_are_refused(self, call: Callable[[], object], message: str) -> None:
        with pytest.raises(OptionError, match=message):
            call()
