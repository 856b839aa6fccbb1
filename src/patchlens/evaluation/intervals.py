"""Intervals for shares."""

from dataclasses import dataclass
from math import sqrt

__all__ = ["Proportion", "wilson"]


@dataclass(frozen=True)
class Proportion:
    """A share of independent trials with its 95 % interval; prints as `86.1 % [84.0, 88.0]`."""

    hits: int
    trials: int

    @property
    def share(self) -> float:
        """Hits over trials, in [0, 1]; 0 without trials."""
        return self.hits / self.trials if self.trials else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval."""
        return wilson(self.hits, self.trials)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.share:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def wilson(hits: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson score interval of a share; [0, 1] without trials.

    Args:
        hits: Successes among the trials.
        trials: How many, taken for independent.
        z: Quantile of the normal distribution; the default gives 95 %.

    Reference:
        Wilson (1927), Probable inference, the law of succession, and statistical inference.

    Example:
        >>> [round(end, 3) for end in wilson(8, 10)]
        [0.49, 0.943]
    """
    if trials == 0:
        return 0.0, 1.0
    share, weight = hits / trials, z * z / trials
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * sqrt(share * (1 - share) / trials + weight / (4 * trials))
    return max(0.0, middle - half), min(1.0, middle + half)
