from itertools import pairwise

import numpy as np
import pytest

from evaluation.made_up import patch, study, verdicts
from patchlens.analysis.rows import records
from patchlens.analysis.types import types_of_candidates, types_of_patches
from patchlens.errors import OptionError, StudyError
from patchlens.evaluation import metrics
from patchlens.evaluation.intervals import clustered, wilson
from patchlens.evaluation.records import VERDICTS_TABLE

SMALL = study(images=20, layers=(0, 4, 9), undecided=0.1)


def test_a_patch_is_of_its_first_type_and_each_candidate_of_its_own() -> None:
    table = verdicts(
        patch(["global", "abstract", "unrelated"])
        + patch(["global", "concrete", "concrete"], image="b.jpg")
        + patch(["unrelated"] * 3, image="c.jpg")
        + patch(["timeout"] * 3, image="d.jpg")
    )
    patches = {row["type"]: row for row in records(types_of_patches(table).table) if row["layer"] == 0}
    assert {kind: row["count"] for kind, row in patches.items()} == {"concrete": 1, "abstract": 1, "global": 0}
    assert {row["patches"] for row in patches.values()} == {3}
    assert (patches["concrete"]["low"], patches["concrete"]["high"]) == wilson(1, 3)
    assert patches["abstract"]["among interpretable"] == 0.5
    words = {row["type"]: row for row in records(types_of_candidates(table).table) if row["layer"] == 0}
    assert {kind: row["count"] for kind, row in words.items()} == {"concrete": 2, "abstract": 1, "global": 2}
    assert {row["candidates"] for row in words.values()} == {9}
    assert words["concrete"]["among interpretable"] == 0.4
    hits, trials = np.array([0, 2, 0]), np.array([3, 3, 3])
    assert (words["concrete"]["low"], words["concrete"]["high"]) == clustered(hits, trials)


@pytest.mark.parametrize("analysis", [types_of_patches, types_of_candidates])
class TestEvery:
    def test_types_add_up_to_the_interpretable(self, analysis) -> None:
        found = analysis(SMALL)
        count = metrics.interpretability if analysis is types_of_patches else metrics.candidates
        for tally in (*count(SMALL), *count(SMALL, by_layer=False)):
            layer = "all" if tally.layer is None else tally.layer
            rows = [
                row
                for row in records(found.table)
                if (row["lens"], row["baseline"], row["layer"]) == (tally.series.lens, tally.series.baseline, layer)
            ]
            assert [row["type"] for row in rows] == ["concrete", "abstract", "global"]
            assert sum(row["count"] for row in rows) == tally.hits
            assert sum(row["share"] for row in rows) == pytest.approx(tally.share)
            assert sum(row["among interpretable"] for row in rows) == pytest.approx(1)

    def test_the_figure_stacks_them(self, analysis) -> None:
        found = analysis(SMALL)
        figure = found.draw()
        panels = [axes for axes in figure.axes if axes.patches]
        assert [axes.get_title(loc="left") for axes in panels] == ["LatentLens", "LogitLens", "EmbeddingLens"]
        rows = [row for row in records(found.table) if row["lens"] == "logit" and row["baseline"] is None]
        rows = [row for row in rows if row["layer"] != "all"]
        heights = [bar.get_height() for bar in panels[1].patches]
        expected = [row["share"] for kind in ("concrete", "abstract", "global") for row in rows if row["type"] == kind]
        assert heights == pytest.approx(expected)
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == ["global", "abstract", "concrete"]

    def test_undecided_are_counted_once_in_the_note(self, analysis) -> None:
        assert (
            f"of {630 // 30 * 20 * (1 if analysis is types_of_patches else 5):,} are undecided" in analysis(SMALL).note
        )

    def test_what_cannot_be_counted_is_refused(self, analysis) -> None:
        with pytest.raises(StudyError, match="no verdicts"):
            analysis(VERDICTS_TABLE.empty_table())
        with pytest.raises(OptionError, match="'tuned'"):
            analysis(SMALL, lenses=["tuned"])

    def test_nothing_decided_is_not_drawn(self, analysis) -> None:
        assert analysis(verdicts(patch(["refused"]))).draw is None


def test_many_layers_are_named_where_there_is_room() -> None:
    found = types_of_patches(study(images=8, layers=range(80), baselines=False))
    assert found.draw is not None
    figure = found.draw()
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
        assert len(boxes) > 5
        assert all(one.x1 < other.x0 for one, other in pairwise(boxes))
        assert axes.get_xticklabels()[-1].get_text() == "79"
        assert not axes.texts  # no numbers in bars as thin as these
