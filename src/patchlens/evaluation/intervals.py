"""Intervals for shares."""

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

__all__ = ["Proportion", "clustered", "wilson"]

Array = np.ndarray[Any, np.dtype[Any]]

_Z = 1.959964
_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
"""The 97.5 % quantile of Student's t for 1 to 10 degrees of freedom."""


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


def wilson(hits: int, trials: int, z: float = _Z) -> tuple[float, float]:
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


def clustered(hits: Array, trials: Array) -> tuple[float, float]:
    """The 95 % interval of total hits over total trials, where only clusters are independent.

    The patches of one image resemble each other; an interval that took each for a trial of its own would be far too
    narrow. This is the linearized variance of a ratio over clusters, with Student's t for few of them. A share of 0 or
    1 has no variance to go by; it gets the Wilson interval of as many trials as there are clusters.

    Args:
        hits: Successes of each cluster.
        trials: Trials of each cluster; clusters without any are left out.

    Returns:
        Lower and upper end; [0, 1] with fewer than two clusters.

    Reference:
        Cochran (1977), Sampling Techniques, section 6.3.
    """
    hits, trials = hits[trials > 0].astype(float), trials[trials > 0].astype(float)
    clusters = len(trials)
    if clusters < 2:
        return 0.0, 1.0
    share = hits.sum() / trials.sum()
    if share in (0.0, 1.0):
        return wilson(round(share * clusters), clusters)
    residuals = hits - share * trials
    error = sqrt(clusters / (clusters - 1) * (residuals**2).sum()) / trials.sum()
    half = _student(clusters - 1) * error
    return max(0.0, float(share - half)), min(1.0, float(share + half))


def _student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t; beyond the table by its expansion around the normal (error below 0.001)."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    first = (_Z**3 + _Z) / 4
    second = (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / 96
    third = (3 * _Z**7 + 19 * _Z**5 + 17 * _Z**3 - 15 * _Z) / 384
    return _Z + first / freedom + second / freedom**2 + third / freedom**3
