"""Tests and intervals for measures that were taken on the same patches, image by image.

It does not know what a lens or a judge is: it gets yes and no, sums by image, and p values.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import exp, fsum, isfinite, lgamma, log, sqrt
from statistics import NormalDist

import numpy as np

from patchlens.errors import OptionError
from patchlens.evaluation.intervals import Array, wilson

__all__ = [
    "Interval",
    "Paired",
    "bootstrap",
    "bootstrap_rows",
    "cluster_sums",
    "difference",
    "holm",
    "mcnemar",
    "minimum_detectable_effect",
    "minimum_detectable_paired_effect",
    "ratio",
]

_BLOCK = 1 << 22  # clusters drawn at a time, over all draws of a block: 32 MB of indices


@dataclass(frozen=True)
class Paired:
    """Two yes/no answers on the same patches; prints as `+20.0 points [5.7, 34.0], p = 0.013`."""

    both: int
    """Patches with yes to both."""
    only_first: int
    """Patches with yes to the first alone."""
    only_second: int
    """Patches with yes to the second alone."""
    neither: int
    """Patches with no to both."""

    @property
    def pairs(self) -> int:
        """Patches in all."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def difference(self) -> float:
        """Share of the first less share of the second, in [-1, 1]; 0 without pairs."""
        return (self.only_first - self.only_second) / self.pairs if self.pairs else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference, from the Wilson intervals of both shares; [-1, 1] without pairs.

        Reference:
            Newcombe (1998), Improved confidence intervals for the difference between binomial proportions based on
            paired data, Statistics in Medicine 17, 2635-2650, method 10.
        """
        if not self.pairs:
            return -1.0, 1.0
        first, second = self.both + self.only_first, self.both + self.only_second
        below_first, above_first = _arms(first, self.pairs)
        below_second, above_second = _arms(second, self.pairs)
        return (
            self.difference - self._joined(below_first, above_second),
            self.difference + self._joined(above_first, below_second),
        )

    @property
    def p(self) -> float:
        """Of the exact two-sided McNemar test: how often fair coins would split the discordant pairs as unevenly.

        Reference:
            McNemar (1947), Psychometrika 12, 153-157; exact by the binomial distribution.
        """
        discordant, fewer = self.only_first + self.only_second, min(self.only_first, self.only_second)
        coins = lgamma(discordant + 1) - discordant * log(2)
        logs = (coins - lgamma(k + 1) - lgamma(discordant - k + 1) for k in range(fewer + 1))
        return min(1.0, 2 * fsum(exp(term) for term in logs))

    def _joined(self, one: float, other: float) -> float:
        """The arm of the difference, from one of each share and their correlation."""
        return sqrt(max(0.0, one**2 - 2 * self._correlation * one * other + other**2))

    @property
    def _correlation(self) -> float:
        """φ of the two answers, corrected for continuity where positive; 0 where an answer never varies."""
        first, second = self.both + self.only_first, self.both + self.only_second
        margins = first * (self.pairs - first) * second * (self.pairs - second)
        if margins == 0:
            return 0.0
        surplus = self.both * self.neither - self.only_first * self.only_second
        return (min(surplus, 0) + max(surplus - self.pairs / 2, 0.0)) / sqrt(margins)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.difference:+.1f} points [{100 * low:.1f}, {100 * high:.1f}], p = {self.p:.2g}"


@dataclass(frozen=True)
class Interval:
    """A statistic with its bootstrap interval; prints as `0.683 [0.611, 0.742]`."""

    value: float
    """Of all clusters."""
    low: float | None
    """Lower end; None where nothing is known of the spread, with fewer than two clusters."""
    high: float | None
    """Upper end; None with `low`."""
    level: float
    """Confidence, in (0, 1)."""
    draws: int
    """Resamples behind the ends: those that were asked for, less those in which the statistic is undefined."""

    def __str__(self) -> str:
        ends = "–, –" if self.low is None or self.high is None else f"{self.low:.3f}, {self.high:.3f}"
        return f"{self.value:.3f} [{ends}]"


def mcnemar(first: Array, second: Array) -> Paired:
    """Compare two yes/no answers that were given on the same patches.

    The test and the interval take patches for independent: one patch per image, or use `bootstrap` with `difference`.

    Args:
        first: Booleans, one per patch.
        second: Booleans on the same patches in the same order.

    Raises:
        OptionError: They are not booleans, or not equally many.

    Example:
        >>> lens, other = np.array([True, True, True, False]), np.array([True, False, False, False])
        >>> print(mcnemar(lens, other))
        +50.0 points [-13.5, 78.9], p = 0.5
    """
    if first.dtype != bool or second.dtype != bool or first.ndim != 1 or first.shape != second.shape:
        raise OptionError(
            f"A paired test got {first.dtype} {list(first.shape)} and {second.dtype} {list(second.shape)}. Give two "
            "arrays of booleans, one entry per patch, on the same patches; leave out those where either is undecided."
        )
    both, only_first = int((first & second).sum()), int((first & ~second).sum())
    only_second = int((~first & second).sum())
    return Paired(both, only_first, only_second, len(first) - both - only_first - only_second)


def holm(p_values: Iterable[float]) -> tuple[float, ...]:
    """Adjust the p values of one family of tests, so that the chance of any false alarm stays below the level.

    Args:
        p_values: One per test. What was not tested is no member of the family: leave it out.

    Returns:
        Adjusted p values in the given order, at most 1.

    Raises:
        OptionError: One of them is None, NaN or outside [0, 1].

    Reference:
        Holm (1979), A simple sequentially rejective multiple test procedure.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        (0.03, 0.06, 0.06)
    """
    given = list(p_values)
    for number, p in enumerate(given, 1):
        if not isinstance(p, float | int) or not 0 <= p <= 1:
            raise OptionError(
                f"p value {number} of {len(given)} is {p}, which is no number in [0, 1]. Leave out tests that could "
                "not be made."
            )
    order = sorted(range(len(given)), key=given.__getitem__)
    adjusted, least = [0.0] * len(given), 0.0
    for rank, number in enumerate(order):
        least = max(least, min(1.0, (len(given) - rank) * given[number]))
        adjusted[number] = least
    return tuple(adjusted)


def ratio(totals: Array) -> Array:
    """Of sums [..., 2]: the first over the second, which is a share of hits and trials, or a mean."""
    shares: Array = totals[..., 0] / totals[..., 1]
    return shares


def difference(totals: Array) -> Array:
    """Of sums [..., 3]: the first less the second, over the third; hits of two lenses on the same trials."""
    shares: Array = (totals[..., 0] - totals[..., 1]) / totals[..., 2]
    return shares


def cluster_sums(rows: Array, clusters: Sequence[Hashable]) -> Array:
    """Add up the rows of each cluster, in order of first appearance.

    Args:
        rows: One row per item [item, ...].
        clusters: The cluster of each item, such as its image.

    Raises:
        OptionError: Not one cluster per item.

    Example:
        >>> hits_and_trials = np.array([[1, 1], [0, 1], [1, 1]])
        >>> cluster_sums(hits_and_trials, ["kitchen.jpg", "kitchen.jpg", "street.jpg"]).tolist()
        [[1.0, 2.0], [1.0, 1.0]]
    """
    if len(rows) != len(clusters):
        raise OptionError(f"There are {len(rows)} items but the clusters of {len(clusters)}. Give one for each item.")
    number = {cluster: index for index, cluster in enumerate(dict.fromkeys(clusters))}
    sums = np.zeros((len(number), *rows.shape[1:]))
    np.add.at(sums, [number[cluster] for cluster in clusters], rows)
    return sums


def bootstrap(
    sums: Array, statistic: Callable[[Array], Array], *, draws: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """The percentile interval of a function of sums, where only clusters are independent.

    Clusters are drawn with replacement. With few of them, or a share near 0 or 1, the interval comes out too narrow,
    and of no width where no cluster differs: for a single share `intervals.clustered` is better.

    Args:
        sums: What the statistic is made of, summed over each cluster [cluster, ...]; see `cluster_sums`.
        statistic: From totals [draw, ...] to values [draw], all draws at once, such as `ratio` and `difference`. It may
            divide by zero: a draw without a finite value is left out and shows in `Interval.draws`.
        draws: Resamples.
        seed: The same seed gives the same interval.
        level: Confidence.

    Raises:
        OptionError: There is no cluster, the statistic of all clusters is not finite, or an option is out of range.

    Reference:
        Efron and Tibshirani (1993), An Introduction to the Bootstrap, section 13.3; by clusters, Davison and Hinkley
        (1997), Bootstrap Methods and their Application, section 3.8.

    Example:
        >>> hits_and_trials = np.array([[3, 9], [4, 9], [8, 9], [5, 9]])
        >>> print(bootstrap(hits_and_trials, ratio))
        0.556 [0.389, 0.778]
    """
    _check(len(sums), draws, level)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(sums.sum(0)[None])[0])
        drawn = [statistic(np.tensordot(_times(block), sums, 1)) for block in _resamples(len(sums), draws, seed)]
    return _interval(value, drawn, len(sums), level)


def bootstrap_rows(
    rows: Sequence[Array],
    statistic: Callable[[Array], float],
    *,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """As `bootstrap`, of the same resamples, for what is no function of sums, such as a median.

    Args:
        rows: The rows of each cluster, each [row, ...].
        statistic: From the rows of all drawn clusters, stacked, to a number; called once per draw.
        draws: Resamples.
        seed: The same seed gives the same interval.
        level: Confidence.

    Raises:
        OptionError: There is no cluster, the statistic of all rows is not finite, or an option is out of range.
    """
    _check(len(rows), draws, level)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(np.concatenate(rows)))
        drawn = [
            np.array([statistic(np.concatenate([rows[cluster] for cluster in draw])) for draw in block])
            for block in _resamples(len(rows), draws, seed)
        ]
    return _interval(value, drawn, len(rows), level)


def minimum_detectable_effect(n: int, *, share: float = 0.5, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """The smallest difference between two independent shares that a two-sided test would find.

    The other share is taken on the side of one half, where shares spread most: on the other side, less is found too.

    Args:
        n: Independent trials behind each share: images, where patches of an image resemble each other.
        share: One of the two shares.
        power: How often the difference is to be found.
        alpha: Level of the test.

    Returns:
        The difference, in (0, 1]; None where not even the largest would be found.

    Raises:
        OptionError: An option is out of range.

    Reference:
        Fleiss, Levin and Paik (2003), Statistical Methods for Rates and Proportions, chapter 4, by the normal
        approximation without correction for continuity, solved for the difference.

    Example:
        >>> round(minimum_detectable_effect(100), 3)
        0.193
    """
    if not 0 <= share <= 1:
        raise OptionError(f"The share is {share}. Expected a number in [0, 1].")
    test, found = _quantiles(n, power, alpha)
    side = 1.0 if share <= 0.5 else -1.0

    def needed(effect: float) -> float:
        other = share + side * effect
        middle = (share + other) / 2
        null, real = 2 * middle * (1 - middle), share * (1 - share) + other * (1 - other)
        return ((test * sqrt(null) + found * sqrt(max(0.0, real))) / effect) ** 2

    return _smallest(needed, n, max(share, 1 - share))


def minimum_detectable_paired_effect(
    n: int, *, discordance: float, power: float = 0.8, alpha: float = 0.05
) -> float | None:
    """The smallest difference between two shares of the same patches that McNemar's test would find.

    Args:
        n: Independent pairs.
        discordance: Share of pairs with different answers, in (0, 1]; two lenses that mostly agree have a small one.
        power: How often the difference is to be found.
        alpha: Level of the test.

    Returns:
        The difference, at most the discordance; None where not even that would be found.

    Raises:
        OptionError: An option is out of range.

    Reference:
        Connor (1987), Sample size for testing differences in proportions for the paired-sample design, Biometrics 43,
        207-211, solved for the difference.

    Example:
        >>> round(minimum_detectable_paired_effect(100, discordance=0.3), 3)
        0.152
    """
    if not 0 < discordance <= 1:
        raise OptionError(f"The discordance is {discordance}. It is a share of pairs, in (0, 1].")
    test, found = _quantiles(n, power, alpha)

    def needed(effect: float) -> float:
        return ((test * sqrt(discordance) + found * sqrt(max(0.0, discordance - effect**2))) / effect) ** 2

    return _smallest(needed, n, discordance)


def _arms(hits: int, trials: int) -> tuple[float, float]:
    """How far the Wilson interval reaches below and above the share."""
    low, high = wilson(hits, trials)
    return hits / trials - low, high - hits / trials


def _check(clusters: int, draws: int, level: float) -> None:
    if clusters == 0:
        raise OptionError("There is nothing to resample: no cluster was given. Give the sums of at least one image.")
    if draws < 1:
        raise OptionError(f"The bootstrap was asked for {draws} draws. It needs at least one; 2000 are usual.")
    if not 0 < level < 1:
        raise OptionError(f"The level of the interval is {level}. It is a share in (0, 1), such as 0.95.")


def _resamples(clusters: int, draws: int, seed: int) -> Iterator[Array]:
    """Numbers of the clusters drawn, [draw, cluster], in blocks of bounded size; none where all draws are alike."""
    if clusters < 2:
        return
    generator = np.random.default_rng(seed)
    size = max(1, _BLOCK // clusters)
    for start in range(0, draws, size):
        yield generator.integers(clusters, size=(min(size, draws - start), clusters))


def _times(block: Array) -> Array:
    """How often each cluster is in each draw, [draw, cluster]."""
    draws, clusters = block.shape
    places = block + clusters * np.arange(draws)[:, None]
    return np.bincount(places.ravel(), minlength=block.size).reshape(block.shape).astype(float)


def _interval(value: float, drawn: list[Array], clusters: int, level: float) -> Interval:
    if not isfinite(value):
        raise OptionError(
            f"The statistic of all {clusters} clusters is {value}, so there is nothing to give an interval of. Leave "
            "out measures without a trial."
        )
    values = np.concatenate([*drawn, np.empty(0)])
    known = values[np.isfinite(values)]
    if not len(known):
        return Interval(value, None, None, level, 0)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), level, len(known))


def _quantiles(n: int, power: float, alpha: float) -> tuple[float, float]:
    """Of the normal distribution: for the test, and for how often it is to succeed."""
    if n < 1:
        raise OptionError(f"An effect that {n} trials can detect was asked for. Give at least one trial.")
    if not 0.5 <= power < 1:
        raise OptionError(f"The power is {power}. Expected a share in [0.5, 1), such as 0.8.")
    if not 0 < alpha < 1:
        raise OptionError(f"The level of the test is {alpha}. Expected a share in (0, 1), such as 0.05.")
    return NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)


def _smallest(needed: Callable[[float], float], n: int, most: float) -> float | None:
    """The smallest effect that needs no more than n trials, where larger ones need fewer; by bisection."""
    if needed(most) > n:
        return None
    low, high = 0.0, most
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if needed(middle) <= n else (middle, high)
    return high
