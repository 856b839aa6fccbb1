"""How far raters concur beyond chance: Cohen's κ, Fleiss' κ, Krippendorff's α, each with an interval.

A rater is a judge or a person, an item a patch, an answer any category. It knows none of them.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from numbers import Real
from typing import Any

import numpy as np

from patchlens.errors import OptionError
from patchlens.evaluation.intervals import Array
from patchlens.evaluation.statistics import bootstrap, cluster_sums

__all__ = ["Agreement", "AgreementTable", "agreement", "cohen_kappa", "fleiss_kappa", "krippendorff_alpha"]

_LEVELS = ("nominal", "ordinal", "interval")

Account = Callable[[Array], tuple[Array, Array]]
"""From sums over items [..., column] to the observed agreement and that by chance alone."""


@dataclass(frozen=True)
class Agreement:
    """A measure of agreement; prints as `Cohen's κ 0.68 [0.61, 0.74], 84.4 % alike, 1020 items`."""

    measure: str
    """Its name."""
    value: float | None
    """1 for full agreement, 0 for what chance gives, negative for less; None where it is undefined."""
    low: float | None
    """Lower end of the 95 % bootstrap interval; None without a value, or of fewer than two items (or clusters)."""
    high: float | None
    """Upper end; None with `low`."""
    items: int
    """Items that count: those that both, all or at least two raters answered, by the measure."""
    raters: int
    """Raters."""
    observed: float | None
    """Agreement as it is, in [0, 1]: pairs of answers to one item that are alike (for marks: how near they are, 0 as
    far apart as possible); None without items."""
    expected: float | None
    """Agreement that chance alone would give, in [0, 1]; None without items."""
    draws: int = 0
    """Resamples behind the interval; those in which the measure is undefined are left out."""
    undefined: str | None = None
    """Why there is no value; None where there is one."""

    def __str__(self) -> str:
        if self.value is None or self.observed is None:
            return f"{self.measure} undefined: {self.undefined}"
        ends = "–, –" if self.low is None or self.high is None else f"{self.low:.2f}, {self.high:.2f}"
        return f"{self.measure} {self.value:.2f} [{ends}], {100 * self.observed:.1f} % alike, {self.items} items"


@dataclass(frozen=True)
class AgreementTable:
    """How far several raters concur, two by two and all together."""

    raters: tuple[str, ...]
    """Their names, in the order given."""
    pairs: dict[tuple[str, str], Agreement]
    """Cohen's κ of every two raters, on the items that both answered."""
    fleiss: Agreement
    """Fleiss' κ, on the items that all answered."""
    alpha: Agreement
    """Krippendorff's α, on all items that at least two answered."""

    def __str__(self) -> str:
        pairs = (f"{first}, {second}: {found}" for (first, second), found in self.pairs.items())
        return "\n".join([*pairs, f"all: {self.fleiss}", f"all: {self.alpha}"])


def agreement(
    answers: Mapping[str, Mapping[Hashable, Hashable]],
    *,
    clusters: Mapping[Hashable, Hashable] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> AgreementTable:
    """Compare what several raters answered on the same items.

    Args:
        answers: By the rater's name: the category of each item. An item that is absent or None was not answered; leave
            undecided verdicts out, or give them a category of their own.
        clusters: Which cluster, such as the image, each item belongs to; None where items are independent.
        draws: Resamples behind each interval.
        seed: The same seed gives the same intervals, in whatever order the items were answered.

    Raises:
        OptionError: Fewer than two raters, or an item without a cluster.

    Example:
        >>> table = agreement({"Ada": {"a": "yes", "b": "no", "c": "no"}, "Ben": {"a": "yes", "b": "no", "c": "yes"}})
        >>> round(table.pairs["Ada", "Ben"].value, 2), table.alpha.items
        (0.4, 3)
    """
    if len(answers) < 2:
        raise OptionError(f"Agreement needs at least two raters; found {', '.join(answers) or 'none'}. Add another.")
    items = sorted({item for given in answers.values() for item in given}, key=str)
    if clusters is not None and (alone := [item for item in items if item not in clusters]):
        raise OptionError(
            f"{len(alone)} of {len(items)} items have no cluster, such as {alone[0]}. Give the cluster of every item."
        )
    by_rater = {rater: [given.get(item) for item in items] for rater, given in answers.items()}
    ratings = list(zip(*by_rater.values(), strict=True))
    groups = items if clusters is None else [clusters[item] for item in items]
    full = [number for number, given in enumerate(ratings) if None not in given]
    fleiss = fleiss_kappa(
        [ratings[number] for number in full], clusters=[groups[number] for number in full], draws=draws, seed=seed
    )
    return AgreementTable(
        tuple(answers),
        {
            (first, second): cohen_kappa(by_rater[first], by_rater[second], clusters=groups, draws=draws, seed=seed)
            for first, second in combinations(answers, 2)
        },
        replace(fleiss, raters=len(answers)),
        krippendorff_alpha(ratings, clusters=groups, draws=draws, seed=seed),
    )


def cohen_kappa(
    first: Iterable[Hashable],
    second: Iterable[Hashable],
    *,
    clusters: Iterable[Hashable] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Agreement:
    """Agreement of two raters, where chance means that each keeps to their own share of every category.

    Args:
        first: Categories that one rater gave, item by item; None where they did not answer.
        second: The other rater's, on the same items in the same order.
        clusters: The cluster of each item, such as its image, if items of one resemble each other.
        draws: Resamples behind the interval.
        seed: The same seed gives the same interval.

    Raises:
        OptionError: Not equally many answers, or NaN among them.

    Reference:
        Cohen (1960), A coefficient of agreement for nominal scales.

    Example:
        >>> print(cohen_kappa("yyynnnny", "yynnnnny"))
        Cohen's κ 0.75 [0.25, 1.00], 87.5 % alike, 8 items
    """
    one, other = list(first), list(second)
    if len(one) != len(other):
        raise OptionError(
            f"Two raters gave {len(one)} and {len(other)} answers. Give one for each item, None where there is none."
        )
    given = list(zip(one, other, strict=True))
    rated = [number for number, pair in enumerate(given) if None not in pair]
    categories = _categories([answer for number in rated for answer in given[number]])
    left, right = (_counts([[given[number][rater]] for number in rated], categories) for rater in (0, 1))
    alike = (left * right).sum(1, keepdims=True)
    rows = np.concatenate([alike, np.ones_like(alike), left, right], axis=1)
    return _agreement("Cohen's κ", 2, categories, rows, _cohen, _chosen(clusters, rated, len(given)), draws, seed)


def fleiss_kappa(
    ratings: Iterable[Iterable[Hashable]],
    *,
    clusters: Iterable[Hashable] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Agreement:
    """Agreement of equally many answers to every item, where chance means that all keep to the common shares.

    Who gave which answer does not matter, and it need not be the same raters each time.

    Args:
        ratings: The categories that each item got.
        clusters: The cluster of each item, if items of one resemble each other.
        draws: Resamples behind the interval.
        seed: The same seed gives the same interval.

    Raises:
        OptionError: Items have unequally many answers, or fewer than two, or None or NaN among them.

    Reference:
        Fleiss (1971), Measuring nominal scale agreement among many raters.

    Example:
        >>> print(fleiss_kappa(["yyy", "nnn", "yyn", "nnn", "yyy"]))
        Fleiss' κ 0.73 [-0.15, 1.00], 86.7 % alike, 5 items
    """
    given = [list(answers) for answers in ratings]
    raters = len(given[0]) if given else 0
    for number, answers in enumerate(given, 1):
        if len(answers) != raters or len(answers) < 2 or None in answers:
            raise OptionError(
                f"Fleiss' κ needs equally many answers to every item, at least two; item 1 has {raters} and item "
                f"{number} has {len(answers)}, {answers.count(None)} of them None. Leave out items with missing "
                "answers, or use krippendorff_alpha, which needs none left out."
            )
    categories = _categories([answer for answers in given for answer in answers])
    counts = _counts(given, categories)
    alike = (counts * (counts - 1)).sum(1, keepdims=True) / (raters * (raters - 1))
    rows = np.concatenate([alike, np.ones_like(alike), counts / raters], axis=1)
    groups = _chosen(clusters, range(len(given)), len(given))
    return _agreement("Fleiss' κ", raters, categories, rows, _fleiss, groups, draws, seed)


def krippendorff_alpha(
    ratings: Iterable[Iterable[Hashable]],
    *,
    level: str = "nominal",
    clusters: Iterable[Hashable] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Agreement:
    """Agreement of any number of answers to each item, corrected for how few there are; answers may be missing.

    Args:
        ratings: The answers that each item got, None for each that is missing; items with fewer than two count nothing.
        level: What a difference is worth: `nominal`, the same for any two categories; for marks, `ordinal`, as many
            answers as lie between, or `interval`, the square of how far they are apart.
        clusters: The cluster of each item, if items of one resemble each other.
        draws: Resamples behind the interval.
        seed: The same seed gives the same interval.

    Raises:
        OptionError: An unknown level, marks that are no numbers, or NaN among the answers.

    Reference:
        Krippendorff (2011), Computing Krippendorff's Alpha-Reliability.

    Example:
        >>> print(krippendorff_alpha([["y", "y", None], ["n", "n", "y"], ["n", None, "n"], ["y", None, None]]))
        Krippendorff's α 0.50 [-0.33, 1.00], 71.4 % alike, 3 items
    """
    if level not in _LEVELS:
        raise OptionError(f"Krippendorff's α has no level {level!r}. Known: {', '.join(_LEVELS)}.")
    everything = [list(answers) for answers in ratings]
    raters = max(map(len, everything), default=0)
    present = [[answer for answer in answers if answer is not None] for answers in everything]
    paired = [number for number, answers in enumerate(present) if len(answers) > 1]
    given = [present[number] for number in paired]
    categories = _categories([answer for answers in given for answer in answers])
    marks = np.arange(len(categories)) if level == "nominal" else _marks(categories, level)
    counts = _counts(given, categories)
    answers = counts.sum(1)[:, None, None]
    coincidences = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(len(categories))
    rows = (coincidences / (answers - 1)).reshape(len(given), len(categories) ** 2)
    account = partial(_krippendorff, level=level, marks=marks)
    groups = _chosen(clusters, paired, len(everything))
    return _agreement("Krippendorff's α", raters, categories, rows, account, groups, draws, seed)


def _cohen(totals: Array) -> tuple[Array, Array]:
    """Columns: answers that are alike, items, categories of the first rater, categories of the second."""
    items = totals[..., 1]
    first, second = np.split(totals[..., 2:], 2, axis=-1)
    return totals[..., 0] / items, (first * second).sum(-1) / items**2


def _fleiss(totals: Array) -> tuple[Array, Array]:
    """Columns: share of pairs of answers that are alike, items, share of answers in each category."""
    items = totals[..., 1]
    return totals[..., 0] / items, ((totals[..., 2:] / items[..., None]) ** 2).sum(-1)


def _krippendorff(totals: Array, *, level: str, marks: Array) -> tuple[Array, Array]:
    """Columns: the matrix of coincidences, which counts every answer once.

    In his terms: o_ck the coincidences, n_c their margins, n all answers, δ² the metric, here brought to at most 1,
    which cancels in α = 1 - D_o / D_e; the agreements returned are 1 - D_o and 1 - D_e.
    """
    o = totals.reshape(*totals.shape[:-1], len(marks), len(marks))
    n_c = o.sum(-1)
    n = n_c.sum(-1)
    scale = n_c.cumsum(-1) - n_c / 2 if level == "ordinal" else np.broadcast_to(marks, n_c.shape)
    apart = abs(scale[..., :, None] - scale[..., None, :])
    delta2 = (apart > 0).astype(float) if level == "nominal" else (apart / apart.max((-1, -2), keepdims=True)) ** 2
    observed = (o * delta2).sum((-1, -2)) / n
    expected = (n_c[..., :, None] * n_c[..., None, :] * delta2).sum((-1, -2)) / (n * (n - 1))
    return 1 - observed, 1 - expected


def _beyond_chance(account: Account, totals: Array) -> Array:
    observed, expected = account(totals)
    value: Array = (observed - expected) / (1 - expected)
    return value


def _agreement(
    measure: str,
    raters: int,
    categories: dict[Hashable, int],
    rows: Array,
    account: Account,
    clusters: list[Hashable] | None,
    draws: int,
    seed: int,
) -> Agreement:
    if not len(rows):
        reason = "no item has the answers that it needs."
        return Agreement(measure, None, None, None, 0, raters, None, None, undefined=reason)
    if len(categories) == 1:
        reason = f"every answer is {next(iter(categories))!r}, so that chance alone would give the same agreement."
        return Agreement(measure, None, None, None, len(rows), raters, 1.0, 1.0, undefined=reason)
    sums = rows if clusters is None else cluster_sums(rows, clusters)
    found = bootstrap(sums, partial(_beyond_chance, account), draws=draws, seed=seed)
    observed, expected = (float(share[0]) for share in account(rows.sum(0, keepdims=True)))
    return Agreement(
        measure, found.value, found.low, found.high, len(rows), raters, observed, expected, draws=found.draws
    )


def _categories(answers: list[Hashable]) -> dict[Hashable, int]:
    """Each category's number, in order of first appearance."""
    if any(answer != answer for answer in answers):
        raise OptionError("There is NaN among the answers, which equals nothing. Give None where an answer is missing.")
    return {category: number for number, category in enumerate(dict.fromkeys(answers))}


def _marks(categories: dict[Hashable, int], level: str) -> Array:
    """The categories as numbers in ascending order, by which they are numbered anew."""
    marks: list[Any] = list(categories)
    others = [mark for mark in marks if not isinstance(mark, Real)]
    if others:
        raise OptionError(
            f"Krippendorff's α of level {level} needs answers that are numbers; found {others[0]!r}. Give numbers, or "
            "use the level nominal."
        )
    marks.sort()
    categories.update({mark: number for number, mark in enumerate(marks)})
    return np.array(marks, dtype=float)


def _counts(given: list[list[Hashable]], categories: dict[Hashable, int]) -> Array:
    """How often each item got each category, [item, category]."""
    counts = np.zeros((len(given), len(categories)))
    for number, answers in enumerate(given):
        for answer in answers:
            counts[number, categories[answer]] += 1
    return counts


def _chosen(clusters: Iterable[Hashable] | None, items: Iterable[int], known: int) -> list[Hashable] | None:
    """The clusters of those items that count, of all that are known."""
    if clusters is None:
        return None
    every = list(clusters)
    if len(every) != known:
        raise OptionError(f"There are {known} items but the clusters of {len(every)}. Give one for each item.")
    return [every[number] for number in items]
