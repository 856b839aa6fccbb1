from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.made_up import patch, study, verdicts
from patchlens.analysis.agreement import judge_agreement
from patchlens.analysis.rows import records
from patchlens.errors import OptionError, StudyError
from patchlens.evaluation.records import VERDICTS_TABLE
from patchlens.evaluation.verdict import INTERPRETABLE, UNDECIDED, VERDICTS


def asked(judge: str, question: str, said: list[str], **where: Any) -> list[dict[str, Any]]:
    """The rows of one question to a judge, who answers all of it or nothing."""
    return patch(said, judge=judge, question=question, **where)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Two judges on twelve patches at two layers, of which some ask the same; each leaves some questions out."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = [row for judge in ("truth", "Ada") for row in asked(judge, "last", ["concrete"] * 3, image="z.jpg")]
    for image in range(12):
        layers = {f"{image}": (0, 3)} if rng.random() < 0.4 else {f"{image} {layer}": (layer,) for layer in (0, 3)}
        for question, where in layers.items():
            for judge in ("truth", "Ada"):
                given = [str(verdict) for verdict in rng.choice(VERDICTS, size=3, p=[0.3, 0.1, 0.1, 0.5])]
                said = [UNDECIDED[0]] * 3 if rng.random() < 0.1 else given
                if rng.random() < 0.9:
                    for layer in where:
                        rows += asked(judge, question, said, image=f"{image}.jpg", layer=layer)
    return verdicts([rows[number] for number in rng.permutation(len(rows))])


def slowly(table: pa.Table) -> dict[str, list[tuple[str, str]]]:
    """What both judges answered about each patch and each candidate of every different question."""
    said: dict[str, dict[str, dict[int, str]]] = defaultdict(lambda: defaultdict(dict))
    for row in table.to_pylist():
        said[row["question"]][row["judge"]][row["rank"]] = row["verdict"] or row["undecided"]
    pairs: dict[str, list[tuple[str, str]]] = {"patches": [], "candidates": []}
    for of_judges in said.values():
        if len(of_judges) == 2:
            one, other = of_judges["truth"], of_judges["Ada"]
            both = [(one[rank], other[rank]) for rank in one]
            pairs["candidates"] += [pair for pair in both if set(pair) <= set(VERDICTS)]
            whole = [_whole(answers.values()) for answers in (one, other)]
            if None not in whole:
                pairs["patches"].append((str(whole[0]), str(whole[1])))
    return pairs


def _whole(answers: Any) -> str | None:
    if any(answer in INTERPRETABLE for answer in answers):
        return "interpretable"
    return "not" if all(answer in VERDICTS for answer in answers) else None


@settings(deadline=None, max_examples=25)
@given(tables())
def test_cohens_kappa_is_of_what_both_decided_each_question_once(table: pa.Table) -> None:
    found = records(judge_agreement(table, draws=1).table)
    for of, pairs in slowly(table).items():
        row = next(row for row in found if (row["of"], row["lens"], row["measure"]) == (of, "all", "Cohen's κ"))
        assert row["items"] == len(pairs)
        names = VERDICTS if of == "candidates" else ("interpretable", "not")
        square = np.array([[pairs.count((one, other)) for other in names] for one in names]) / len(pairs)
        alike, chance = np.trace(square), square.sum(0) @ square.sum(1)
        assert (row["alike"], row["by chance"]) == pytest.approx((alike, chance))
        if row["value"] is not None:
            assert row["value"] == pytest.approx((alike - chance) / (1 - chance))


def test_where_any_candidate_is_interpretable_an_undecided_one_matters_not() -> None:
    rows = asked("a", "1", ["concrete", "unrelated"]) + asked("b", "1", ["timeout", "global"])
    rows += asked("a", "2", ["unrelated"], image="x") + asked("b", "2", ["timeout"], image="x")
    rows += asked("a", "3", ["unrelated"], image="y") + asked("b", "3", ["unrelated"], image="y")
    found = {row["of"]: row for row in records(judge_agreement(verdicts(rows)).table) if row["measure"] == "Cohen's κ"}
    assert (found["patches"]["items"], found["patches"]["value"]) == (2, 1.0)
    assert (found["candidates"]["items"], found["candidates"]["alike"]) == (2, 0.5)


def test_lenses_are_compared_by_themselves_a_shared_question_in_each() -> None:
    rows = []
    for number in range(6):
        for judge in ("a", "b"):
            for lens in ("latent", "logit"):
                said = ["concrete" if number % 2 else "unrelated"]
                rows += asked(judge, f"{number}", said, image=f"{number}", lens=lens)
            chance = ["concrete" if judge == "a" else "unrelated"]
            rows += asked(judge, f"random {number}", chance, image=f"{number}", lens="random", baseline="random rows")
    found = {
        row["lens"]: row
        for row in records(judge_agreement(verdicts(rows)).table)
        if (row["of"], row["measure"]) == ("patches", "Cohen's κ")
    }
    assert {lens: row["items"] for lens, row in found.items()} == {"all": 12, "latent": 6, "logit": 6}
    assert {lens: row["value"] for lens, row in found.items() if lens != "all"} == {"latent": 1.0, "logit": 1.0}
    assert found["all"]["value"] < 0.5


def test_the_interval_takes_images_for_independent() -> None:
    """Ninety questions about three images, on each of which judges agree always or never."""
    rows = []
    for image in range(3):
        for number in range(30):
            verdict = "concrete" if number % 2 else "unrelated"
            other = {"concrete": "unrelated", "unrelated": "concrete"}[verdict] if image == 2 else verdict
            question, where = f"{image} {number}", {"image": f"{image}", "layer": number}
            rows += asked("a", question, [verdict], **where) + asked("b", question, [other], **where)
    found = next(row for row in records(judge_agreement(verdicts(rows)).table) if row["measure"] == "Cohen's κ")
    assert found["value"] == pytest.approx(1 / 3)
    assert (found["low"], found["high"]) == (-1.0, 1.0)


def test_three_judges_are_compared_two_by_two_and_all_together() -> None:
    table = study(images=20, layers=(0, 5), judges={"gpt-5": 1.0, "Ada": 0.9, "Ben": 0.6}, undecided=0.1)
    finding = judge_agreement(table, draws=50)
    rows = [row for row in records(finding.table) if (row["lens"], row["of"]) == ("all", "patches")]
    assert [(row["judges"], row["measure"]) for row in rows] == [
        ("gpt-5 and Ada", "Cohen's κ"),
        ("gpt-5 and Ben", "Cohen's κ"),
        ("Ada and Ben", "Cohen's κ"),
        ("all", "Fleiss' κ"),
        ("all", "Krippendorff's α"),
    ]
    assert rows[0]["value"] > rows[1]["value"]
    assert rows[3]["items"] < min(row["items"] for row in rows if row["measure"] != "Fleiss' κ")
    assert finding.draw is not None
    axes = finding.draw().axes
    assert [panel.get_title(loc="left") for panel in axes] == [
        "all lenses and baselines",
        *("LatentLens", "LogitLens", "EmbeddingLens"),
    ]
    points = [line for line in axes[0].get_lines() if line.get_marker() == "o"]
    drawn = {(round(float(point.get_ydata()[0])), float(point.get_xdata()[0])) for point in points}
    of_all = [row for row in records(finding.table) if row["lens"] == "all"]
    names = list(dict.fromkeys((row["judges"], row["measure"]) for row in of_all))
    assert drawn == {(names.index((row["judges"], row["measure"])), row["value"]) for row in of_all}


def test_judges_of_other_rubrics_meet_on_the_same_patch() -> None:
    rows = asked("a", "patch 1", ["concrete"]) + asked("b", "sentence 1", ["concrete"], rubric="sentence")
    rows += asked("a", "patch 2", ["unrelated"], layer=1) + asked("b", "sentence 2", ["unrelated"], layer=1)
    found = records(judge_agreement(verdicts(rows)).table)[0]
    assert (found["items"], found["value"]) == (2, 1.0)


def test_where_answers_never_vary_it_says_why_there_is_no_value() -> None:
    finding = judge_agreement(verdicts(asked("a", "1", ["concrete"]) + asked("b", "1", ["concrete"])))
    assert set(finding.table.column("value")) == {None}
    assert "every answer is 'interpretable'" in str(finding.table.rows[0])
    assert finding.draw is None


def test_what_cannot_be_compared_is_refused() -> None:
    alone = verdicts(patch(["concrete"]))
    with pytest.raises(StudyError, match="all 1 verdicts are those of truth"):
        judge_agreement(alone)
    with pytest.raises(StudyError, match="no verdicts"):
        judge_agreement(VERDICTS_TABLE.empty_table())
    with pytest.raises(StudyError, match="2 times"):
        judge_agreement(verdicts([*patch(["concrete"]), *patch(["global"]), *patch(["global"], judge="b")]))
    with pytest.raises(OptionError, match="Expected at least 1"):
        judge_agreement(alone, top=0)
