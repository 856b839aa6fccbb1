import random
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from patchlens.analysis.captions import captions_by_claims, captions_by_mark, captions_by_truth
from patchlens.analysis.finding import Finding
from patchlens.analysis.rows import records
from patchlens.errors import StudyError
from patchlens.evaluation.captions import ClaimScore, Marked
from patchlens.evaluation.records import CAPTIONS
from patchlens.evaluation.truth import CaptionTruth, Vocabulary
from patchlens.picturebook.language import caption
from patchlens.picturebook.scene import scenes
from patchlens.picturebook.truth import caption_truth

WORLD = Vocabulary(frozenset({"car", "owl"}), frozenset({"red"}), frozenset({"park", "beach"}))
TRUTHS = {
    "a": CaptionTruth((("car", "red"), ("owl", None)), "park", ("zoo",), WORLD),
    "b": CaptionTruth((("owl", None),), "beach", (), WORLD),
}


def _captions(*rows: tuple[str, str, str]) -> pa.Table:
    return pa.table(dict(zip(CAPTIONS.names, zip(*rows, strict=True), strict=True))).cast(CAPTIONS)


def _row(finding: Finding, **wanted: str) -> dict[str, object]:
    (row,) = (row for row in records(finding.table) if all(row[name] == value for name, value in wanted.items()))
    return row


def _bars(finding: Finding) -> list[list[float]]:
    """The heights of each panel's bars, as they were drawn."""
    assert finding.draw is not None
    return [[bar.get_height() for bar in axes.patches] for axes in finding.draw().axes]


# By truth


def test_precision_recall_and_f1_worked_by_hand() -> None:
    found = captions_by_truth(
        _captions(
            ("one", "a", "A red car in a park. It says zoo."),
            ("one", "b", "Two owls and a car on a beach. It says zoo."),
            ("other", "a", "An owl."),
            ("one", "nobody knows", "A red car."),
        ),
        TRUTHS,
    )
    things = [_row(found, model="one", of="things", measure=name) for name in ("precision", "recall", "F1")]
    assert [(row["hits"], row["trials"], row["images"]) for row in things] == [(2, 4, 2), (2, 3, 2), (4, 7, 2)]
    assert _row(found, model="one", of="places", measure="F1")["share"] == 1.0
    assert _row(found, model="one", of="written", measure="read where nothing is written")["share"] == 1.0
    nothing = _row(found, model="other", of="places", measure="precision")
    assert (nothing["trials"], nothing["share"], nothing["low"]) == (0, None, None)
    assert _row(found, model="other", of="colors", measure="recall")["share"] == 0.0


def test_the_figure_shows_the_tables_shares() -> None:
    drawn = list(scenes(0, 30))
    said = [("one", str(s.seed), caption(s, random.Random(s.seed))) for s in drawn]
    said += [("other", str(s.seed), caption(drawn[0], random.Random(0))) for s in drawn]
    found = captions_by_truth(_captions(*said), {str(s.seed): caption_truth(s) for s in drawn})
    one, other = _bars(found)
    assert one == [1.0] * 12
    shares = [
        _row(found, model="other", of=what, measure=measure)["share"] or 0.0
        for measure in ("precision", "recall", "F1")
        for what in ("things", "colors", "places", "written")
    ]
    assert other == pytest.approx(shares)
    assert 0 < shares[0] < 0.5  # of what the first scene shows, others have little


def test_nothing_to_say_and_nothing_said() -> None:
    found = captions_by_truth(_captions(("one", "c", "Hm.")), {"c": CaptionTruth((), None, (), WORLD)})
    assert _row(found, of="things", measure="F1")["share"] is None
    assert _bars(found) == [[]]


def test_images_of_which_nothing_is_known() -> None:
    with pytest.raises(StudyError, match="None of 1 descriptions"):
        captions_by_truth(_captions(("one", "c", "A car.")), TRUTHS)


# By a judge


def _score(image: str, said: str, wanted: str = "") -> ClaimScore:
    """Claims as + for supported and - for not."""
    return ClaimScore(image, *(tuple((f"claim {n}", sign == "+") for n, sign in enumerate(s)) for s in (said, wanted)))


def test_means_of_claims_worked_by_hand() -> None:
    scores = [_score("a", "++", "+-"), _score("b", "+---", "----"), _score("c", "", "+")]
    scores += [ClaimScore("d", undecided="refused"), ClaimScore("e", undecided="refused")]
    scores += [ClaimScore("f", undecided="unreadable")]
    found = captions_by_claims({("one", "gpt"): scores, ("one", "people"): [_score("a", "++")]})
    precision, recall, f1 = (_row(found, judge="gpt", measure=name) for name in ("precision", "recall", "F1"))
    assert (precision["mean"], precision["images"], precision["claims"]) == (0.625, 2, 6)
    assert (recall["mean"], recall["images"], recall["claims"]) == (0.5, 3, 7)
    assert f1["mean"] == pytest.approx((2 / 3 + 0 + 0) / 3)
    assert (f1["undecided"], f1["why"]) == (3, "2 refused, 1 unreadable")
    alone = _row(found, judge="people", measure="recall")
    assert (alone["images"], alone["mean"], alone["low"]) == (0, None, None)
    undecided = {("one", "gpt"): scores, ("one", "nobody"): [ClaimScore("a", undecided="failed")]}
    assert _bars(captions_by_claims(undecided))[1] == []
    gpt, people = _bars(found)
    assert gpt == pytest.approx([0.625, 0.5, 2 / 9])
    assert people == [1.0]  # without references there is precision alone


def test_intervals_of_claims_cover_what_they_should() -> None:
    """Of many samples of 40 images, about 95 of 100 intervals hold the mean of all."""
    rng = np.random.default_rng(0)

    def drawn(count: int) -> Sequence[ClaimScore]:
        return [_score(str(n), "".join(rng.choice(["+", "-"], 4, p=[0.7, 0.3]))) for n in range(count)]

    held = []
    for _ in range(200):
        row = _row(captions_by_claims({("one", "gpt"): drawn(40)}), measure="precision")
        held.append(row["low"] <= 0.7 <= row["high"])
    assert 0.9 <= np.mean(held) <= 0.99


def test_marks() -> None:
    given = [Marked(str(n), mark) for n, mark in enumerate((7, 7, 9, 1))] + [Marked("x", None, "failed")]
    found = captions_by_mark({("one", "gpt"): given})
    (row,) = records(found.table)
    assert (row["mean mark"], row["images"], row["undecided"], row["why"]) == (6.0, 4, 1, "1 failed")
    assert row["low"] < 6.0 < row["high"]
    assert [row[str(mark)] for mark in range(1, 11)] == [1, 0, 0, 0, 0, 0, 2, 0, 1, 0]
    assert _bars(found) == [pytest.approx([0.25, 0, 0, 0, 0, 0, 0.5, 0, 0.25, 0])]


def test_marks_of_two_models_are_drawn_on_one_scale_that_holds_both() -> None:
    many, few = [Marked(str(n), 5) for n in range(4)], [Marked(str(n), n + 1) for n in range(4)]
    found = captions_by_mark({("one", "gpt"): few, ("other", "gpt"): many})
    assert found.draw is not None
    assert [axes.get_ylim()[1] >= 1.0 for axes in found.draw().axes] == [True, True]


def test_nothing_decided_is_nothing_to_average() -> None:
    with pytest.raises(StudyError, match="None of 2 judged"):
        captions_by_claims({("one", "gpt"): [ClaimScore("a", undecided="failed"), ClaimScore("b", undecided="failed")]})
    with pytest.raises(StudyError, match="None of 1 judged"):
        captions_by_mark({("one", "gpt"): [Marked("a", None, "failed")]})
