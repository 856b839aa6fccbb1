import numpy as np
import pytest

from patchlens.evaluation.intervals import Proportion, clustered, wilson


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 20, 0.0, 0.1611), (50, 50, 0.9287, 1.0), (425, 500, 0.8161, 0.8787)],
)
def test_agrees_with_hand_worked_cases(hits: int, trials: int, low: float, high: float) -> None:
    # The interval's ends p solve |hits/trials - p| = z·sqrt(p(1-p)/trials).
    found = wilson(hits, trials)
    assert found == pytest.approx((low, high), abs=2e-4)
    for end in found:
        if 1e-9 < end < 1 - 1e-9:
            assert abs(hits / trials - end) == pytest.approx(1.959964 * (end * (1 - end) / trials) ** 0.5, rel=1e-6)


def test_no_trials_say_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert Proportion(0, 0).share == 0.0


def test_prints_with_its_interval() -> None:
    assert str(Proportion(8, 10)) == "80.0 % [49.0, 94.3]"


def test_clusters_that_are_independent_trials_agree_with_the_usual_interval() -> None:
    hits = np.repeat([1, 0], [300, 700])
    low, high = clustered(hits, np.ones(1000))
    half = 1.96 * (0.3 * 0.7 / 1000) ** 0.5
    assert (low, high) == pytest.approx((0.3 - half, 0.3 + half), abs=2e-4)


def test_the_interval_of_clusters_covers_as_often_as_it_says() -> None:
    """Patches of one image all hit or all miss: trials taken for independent would cover about a tenth."""
    rng = np.random.default_rng(0)
    for clusters in (3, 30):
        covered = 0
        for _ in range(1500):
            trials = rng.integers(50, 150, clusters)
            rate = rng.beta(4, 4, clusters)
            low, high = clustered(rng.binomial(trials, rate), trials)
            covered += low <= 0.5 <= high
        assert 0.91 < covered / 1500 < 0.98


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062), (2, 4.3027), (11, 2.2010), (30, 2.0423), (199, 1.9720)]
)
def test_students_quantiles(freedom: int, quantile: float) -> None:
    from patchlens.evaluation.intervals import _student

    assert _student(freedom) == pytest.approx(quantile, abs=1e-3)


def test_no_hit_in_three_clusters_is_not_proof_of_none() -> None:
    assert clustered(np.zeros(3), np.full(3, 144)) == wilson(0, 3)
    assert clustered(np.full(1, 5), np.full(1, 10)) == (0.0, 1.0)
    assert clustered(np.array([3, 0, 4]), np.array([5, 0, 8])) == clustered(np.array([3, 4]), np.array([5, 8]))
