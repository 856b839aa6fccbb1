import pytest

from patchlens.evaluation.intervals import Proportion, wilson


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
