from collections import Counter
from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats import inter_rater

from patchlens.errors import OptionError
from patchlens.evaluation.agreement import Agreement, agreement, cohen_kappa, fleiss_kappa, krippendorff_alpha

# Krippendorff (2011): four observers, twelve units.
OBSERVERS = (
    (1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3),
    (None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None),
)
UNITS = list(zip(*OBSERVERS, strict=True))

TYPES = ["unrelated", "global", "abstract", "concrete"]

few = st.sampled_from(TYPES)
pairs = st.lists(st.tuples(few, few), min_size=1, max_size=20)
triples = st.lists(st.tuples(few, few, few), min_size=1, max_size=20)
with_gaps = st.lists(st.lists(st.one_of(st.none(), st.integers(1, 5)), min_size=4, max_size=4), max_size=15)
quickly = settings(max_examples=60, deadline=None)


def raters(items: int, seed: int = 0, *, share: float = 0.7) -> tuple[list[str], list[str]]:
    """Two who agree in about that share of cases and guess in the others."""
    rng = np.random.default_rng(seed)
    first, guess = rng.choice(["yes", "no", "unsure"], (2, items), p=[0.5, 0.3, 0.2])
    return first.tolist(), np.where(rng.random(items) < share, first, guess).tolist()


def slow_alpha(units: list, level: str) -> float:
    """From the matrix of coincidences, one pair of answers at a time; 2 where it is undefined."""
    coincidences = Counter()
    for unit in units:
        answers = [answer for answer in unit if answer is not None]
        for c, k in permutations(answers, 2):
            coincidences[c, k] += 1 / (len(answers) - 1)
    margins = Counter()
    for (c, _), count in coincidences.items():
        margins[c] += count
    ordered, n = sorted(margins), sum(margins.values())

    def delta2(c, k) -> float:
        if level == "nominal":
            return float(c != k)
        if level == "interval":
            return (c - k) ** 2
        between = [margins[g] for g in ordered if min(c, k) <= g <= max(c, k)]
        return (sum(between) - (margins[c] + margins[k]) / 2) ** 2

    observed = sum(count * delta2(c, k) for (c, k), count in coincidences.items()) / n if n else 0
    expected = sum(margins[c] * margins[k] * delta2(c, k) for c in ordered for k in ordered) / n / (n - 1) if n else 0
    return 1 - observed / expected if expected else 2


def value(found: Agreement) -> float | None:
    assert (found.value is None) == (found.undefined is not None)
    if found.value is not None:
        assert found.value <= 1 + 1e-12
        assert -1e-12 <= found.observed <= 1 + 1e-12
        assert -1e-12 <= found.expected < 1
        assert found.value == pytest.approx((found.observed - found.expected) / (1 - found.expected))
    if found.low is not None:
        assert found.low <= found.high <= 1 + 1e-12
    return found.value


class TestCohen:
    def test_a_case_worked_by_hand(self) -> None:
        """Both yes 20, both no 15, 5 and 10 apart: alike 0.7, by chance 0.5 · 0.6 + 0.5 · 0.4 = 0.5."""
        found = cohen_kappa("y" * 25 + "n" * 25, "y" * 20 + "n" * 5 + "y" * 10 + "n" * 15)
        assert (found.value, found.observed, found.expected) == pytest.approx((0.4, 0.7, 0.5))
        assert (found.items, found.raters, found.draws) == (50, 2, 2000)
        assert str(found).startswith("Cohen's κ 0.40 [0.")
        assert str(found).endswith("], 70.0 % alike, 50 items")

    @pytest.mark.parametrize("seed", range(3))
    def test_agrees_with_statsmodels_and_its_interval_with_the_asymptotic_one(self, seed: int) -> None:
        first, second = raters(600, seed)
        names = ["yes", "no", "unsure"]
        counts = Counter(zip(first, second, strict=True))
        theirs = inter_rater.cohens_kappa(np.array([[counts[a, b] for b in names] for a in names]))
        found = cohen_kappa(first, second)
        assert found.value == pytest.approx(theirs.kappa)
        assert (found.low, found.high) == pytest.approx((theirs.kappa_low, theirs.kappa_upp), abs=0.012)

    @quickly
    @given(pairs)
    def test_is_symmetric_and_knows_no_order_and_no_names(self, answers) -> None:
        first, second = zip(*answers, strict=True)
        found = value(cohen_kappa(first, second, draws=5))
        assert value(cohen_kappa(second, first, draws=5)) == pytest.approx(found)
        assert value(cohen_kappa(first[::-1], second[::-1], draws=5)) == pytest.approx(found)
        renamed = cohen_kappa(map(TYPES.index, first), map(TYPES.index, second), draws=5)
        assert value(renamed) == pytest.approx(found)
        if found is not None:
            assert found >= -1 - 1e-12

    def test_full_agreement_is_1_and_guessing_about_0(self) -> None:
        first, second = raters(4000, share=0.0)
        assert abs(cohen_kappa(first, second, draws=10).value) < 0.05
        assert cohen_kappa(first, first, draws=10).value == pytest.approx(1.0)

    def test_items_that_one_did_not_answer_are_left_out(self) -> None:
        first, second = raters(40)
        gaps = [None, *first, "yes", None], ["no", *second, None, None]
        assert cohen_kappa(*gaps, clusters=["x", *range(40), "y", "z"]) == cohen_kappa(first, second)

    def test_clusters_whose_items_are_alike_widen_the_interval(self) -> None:
        """Each item ten times over: the value stays, and the interval of the ten-fold items is that of the items."""
        first, second = raters(50)
        images = np.repeat(np.arange(50), 10).tolist()
        tenfold = np.repeat(first, 10).tolist(), np.repeat(second, 10).tolist()
        known, naive, found = cohen_kappa(first, second), cohen_kappa(*tenfold), cohen_kappa(*tenfold, clusters=images)
        assert found.value == pytest.approx(known.value) == pytest.approx(naive.value)
        assert (found.low, found.high) == pytest.approx((known.low, known.high))
        assert naive.high - naive.low < (found.high - found.low) / 2


class TestFleiss:
    def test_the_known_example(self) -> None:
        """Fourteen raters, ten subjects, five categories: the table that encyclopedias work through."""
        counts = [
            [0, 0, 0, 0, 14],
            [0, 2, 6, 4, 2],
            [0, 0, 3, 5, 6],
            [0, 3, 9, 2, 0],
            [2, 2, 8, 1, 1],
            [7, 7, 0, 0, 0],
            [3, 2, 6, 3, 0],
            [2, 5, 3, 2, 2],
            [6, 5, 2, 1, 0],
            [0, 2, 2, 3, 7],
        ]
        found = fleiss_kappa([np.repeat(range(5), row).tolist() for row in counts])
        assert (found.value, found.observed, found.expected) == pytest.approx((0.210, 0.378, 0.213), abs=5e-4)
        assert found.value == pytest.approx(inter_rater.fleiss_kappa(np.array(counts)))
        assert (found.items, found.raters) == (10, 14)

    @quickly
    @given(triples, st.randoms())
    def test_agrees_with_statsmodels_whoever_answered_what(self, ratings, random) -> None:
        found = value(fleiss_kappa(ratings, draws=5))
        if found is not None:
            table, _ = inter_rater.aggregate_raters(np.array(ratings))
            assert found == pytest.approx(inter_rater.fleiss_kappa(table))
            assert found >= -0.5 - 1e-12  # -1 / (raters - 1)
        mixed = [tuple(random.sample(answers, 3)) for answers in ratings]
        random.shuffle(mixed)
        assert value(fleiss_kappa(mixed, draws=5)) == pytest.approx(found)


class TestKrippendorff:
    @pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
    def test_the_published_example(self, level: str, alpha: float) -> None:
        found = krippendorff_alpha(UNITS, level=level)
        assert found.value == pytest.approx(alpha, abs=5e-4)
        assert found.value == pytest.approx(slow_alpha(UNITS, level))
        assert (found.items, found.raters) == (11, 4)  # unit 12 has one answer
        assert found.low < found.value < found.high

    @quickly
    @given(with_gaps, st.sampled_from(["nominal", "ordinal", "interval"]))
    def test_agrees_with_one_pair_of_answers_at_a_time(self, units, level: str) -> None:
        found = krippendorff_alpha(units, level=level, draws=5)
        assert value(found) == pytest.approx(slow_alpha(units, level)) or (
            found.value is None and slow_alpha(units, level) == 2
        )

    @quickly
    @given(with_gaps, st.randoms())
    def test_knows_no_order_of_units_or_raters_and_no_names(self, units, random) -> None:
        found = value(krippendorff_alpha(units, draws=5))
        mixed = [[answer and f"category {-answer}" for answer in random.sample(unit, 4)] for unit in units]
        random.shuffle(mixed)
        assert value(krippendorff_alpha(mixed, draws=5)) == pytest.approx(found)

    @quickly
    @given(triples)
    def test_without_gaps_it_is_fleiss_corrected_for_few_answers(self, ratings) -> None:
        """α = κ + (1 - κ) / answers: Krippendorff's chance draws without replacement, Fleiss' with."""
        fleiss, alpha = fleiss_kappa(ratings, draws=5), krippendorff_alpha(ratings, draws=5)
        if fleiss.value is None:
            assert alpha.value is None
        else:
            assert alpha.value == pytest.approx(fleiss.value + (1 - fleiss.value) / (3 * len(ratings)))

    def test_marks_that_are_near_count_more_than_categories_that_differ(self) -> None:
        near = [[1, 2], [5, 6], [9, 10], [3, 3]]
        assert krippendorff_alpha(near, level="interval").value > 0.9
        assert krippendorff_alpha(near).value < 0.3


@pytest.mark.parametrize(
    "measure",
    [
        lambda answers: cohen_kappa([a for a, _ in answers], [b for _, b in answers]),
        fleiss_kappa,
        krippendorff_alpha,
    ],
)
class TestWhereNothingCanBeSaid:
    def test_one_category_is_undefined_and_says_so(self, measure: Callable[[list], Agreement]) -> None:
        found = measure([("no", "no")] * 8)
        assert (found.value, found.low, found.high, found.observed, found.items) == (None, None, None, 1.0, 8)
        assert "undefined: every answer is 'no'" in str(found)

    def test_no_items_are_undefined(self, measure: Callable[[list], Agreement]) -> None:
        found = measure([])
        assert (found.value, found.observed, found.items) == (None, None, 0)
        assert "no item has the answers that it needs" in str(found)

    def test_one_item_has_a_value_and_no_interval(self, measure: Callable[[list], Agreement]) -> None:
        found = measure([("yes", "no")])
        assert (found.observed, found.low, found.high, found.draws) == (pytest.approx(0.0), None, None, 0)
        assert "[–, –]" in str(found)

    def test_draws_of_one_category_are_left_out(self, measure: Callable[[list], Agreement]) -> None:
        """One item of ten differs: about a third of the draws lacks it, and nothing is divided by zero."""
        found = measure([("yes", "yes")] + [("no", "no")] * 9)
        assert found.value == pytest.approx(1.0)
        assert found.draws == pytest.approx(2000 * (1 - 0.9**10), abs=80)


class TestTable:
    answers = {  # noqa: RUF012
        "Ada": {"a": "yes", "b": "no", "c": "no", "d": "yes", "e": "no", "f": None},
        "Ben": {"c": "no", "b": "no", "a": "yes", "d": "no", "e": "no"},
        "Cas": {"a": "yes", "b": "yes", "c": "no", "d": "yes", "f": "no"},
    }

    def test_every_measure_takes_the_items_that_it_can(self) -> None:
        table = agreement(self.answers)
        assert table.raters == ("Ada", "Ben", "Cas")
        assert list(table.pairs) == [("Ada", "Ben"), ("Ada", "Cas"), ("Ben", "Cas")]
        assert [found.items for found in table.pairs.values()] == [5, 4, 4]
        assert (table.fleiss.items, table.fleiss.raters) == (4, 3)
        assert (table.alpha.items, table.alpha.raters) == (5, 3)
        assert table.pairs["Ada", "Ben"].observed == pytest.approx(0.8)
        assert table.pairs["Ada", "Ben"].value == cohen_kappa("ynnyn", "ynnnn").value
        assert table.fleiss.value == pytest.approx(fleiss_kappa(["yyy", "nny", "nnn", "yny"]).value)
        alpha = slow_alpha(["yyy", "nny", "nnn", "yny", "nn"], "nominal")
        assert table.alpha.value == pytest.approx(alpha)
        assert str(table).splitlines()[0].startswith("Ada, Ben: Cohen's κ 0.55 [")
        assert [line.split(":")[0] for line in str(table).splitlines()[3:]] == ["all", "all"]

    def test_the_order_of_answering_changes_nothing(self) -> None:
        backwards = {rater: dict(reversed(given.items())) for rater, given in self.answers.items()}
        table, again = agreement(self.answers), agreement(backwards)
        assert str(table) == str(again)
        assert table.alpha.low == pytest.approx(again.alpha.low)

    def test_intervals_are_over_clusters(self) -> None:
        first, second = (dict(enumerate(answers)) for answers in raters(120))
        images = {item: item // 10 for item in first}
        apart, together = agreement({"a": first, "b": second}), agreement({"a": first, "b": second}, clusters=images)
        assert apart.alpha.value == pytest.approx(together.alpha.value)
        assert apart.alpha.low != together.alpha.low
        numbers = [images[item] for item in sorted(first, key=str)]
        ratings = [[first[item], second[item]] for item in sorted(first, key=str)]
        assert together.alpha == krippendorff_alpha(ratings, clusters=numbers)
        assert together.fleiss == fleiss_kappa(ratings, clusters=numbers)

    def test_raters_without_a_common_item(self) -> None:
        table = agreement({"a": {"x": 1, "y": 2}, "b": {"z": 1}})
        assert (table.fleiss.value, table.fleiss.raters, table.alpha.value) == (None, 2, None)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cohen_kappa("ab", "abc"), "gave 2 and 3 answers"),
        (lambda: cohen_kappa("ab", "ab", clusters=[1]), "2 items but the clusters of 1"),
        (lambda: cohen_kappa([float("nan")], [1]), "NaN among the answers"),
        (lambda: fleiss_kappa(["ab", "abc"]), "item 1 has 2 and item 2 has 3"),
        (lambda: fleiss_kappa(["ab", ["a", None]]), "item 2 has 2, 1 of them None"),
        (lambda: fleiss_kappa(["a", "b"]), "at least two; item 1 has 1"),
        (
            lambda: krippendorff_alpha(["ab"], level="cardinal"),
            "no level 'cardinal'. Known: nominal, ordinal, interval",
        ),
        (lambda: krippendorff_alpha([[1, "b"]], level="ordinal"), "needs answers that are numbers; found 'b'"),
        (lambda: krippendorff_alpha([[1, 2]], clusters=[]), "1 items but the clusters of 0"),
        (lambda: agreement({"Ada": {"a": 1}}), "at least two raters; found Ada"),
        (
            lambda: agreement({"a": {"x": 1}, "b": {"y": 1}}, clusters={"x": 1}),
            "1 of 2 items have no cluster, such as y",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        call()
