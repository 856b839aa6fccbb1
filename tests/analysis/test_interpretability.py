from collections.abc import Callable

import pytest

from evaluation.made_up import SHAPES, patch, study, verdicts
from patchlens.analysis.finding import Finding
from patchlens.analysis.interpretability import by_rank, interpretability, means
from patchlens.analysis.rows import records
from patchlens.errors import OptionError, StudyError
from patchlens.evaluation import metrics
from patchlens.evaluation.records import VERDICTS_TABLE
from patchlens.evaluation.verdict import UNDECIDED

ANALYSES = (interpretability, means, by_rank)
SMALL = study(images=30, layers=(0, 4, 9), undecided=0.1)


class TestInterpretability:
    def test_the_table_has_every_number(self) -> None:
        found = interpretability(SMALL)
        tallies = metrics.interpretability(SMALL)
        assert len(found.table.rows) == len(tallies) == 7 * 3
        for row, tally in zip(records(found.table), tallies, strict=True):
            series = tally.series
            assert (row["judge"], row["model"], row["lens"], row["baseline"]) == (
                *(series.judge, series.model, series.lens, series.baseline),
            )
            assert (row["layer"], row["top"], row["patches"], row["images"]) == (tally.layer, 5, *[tally.decided] * 2)
            assert (row["interpretable"], row["share"]) == (tally.hits, tally.share)
            assert (row["low"], row["high"], row["detectable difference"]) == (tally.low, tally.high, tally.detectable)
            assert row["undecided"] == sum(row[reason] for reason in UNDECIDED) == 30 - row["patches"]

    def test_the_figure_shows_the_table(self) -> None:
        found = interpretability(SMALL)
        assert found.draw is not None
        (axes,) = found.draw().axes
        drawn = {tuple(line.get_ydata()) for line in axes.get_lines()}
        series: dict[tuple[str, str | None], list[float]] = {}
        for row in records(found.table):
            series.setdefault((row["lens"], row["baseline"]), []).append(row["share"])
        assert drawn == set(map(tuple, series.values()))
        assert len(axes.collections) == 3  # bands: of the lenses, not of their baselines
        assert [text.get_text() for text in axes.texts if text.get_text()] != []
        assert axes.get_ylim() == (0, 1)

    def test_the_note_says_how_much_it_rests_on(self) -> None:
        found = interpretability(SMALL)
        assert "one of its 5 best candidates" in found.note
        assert "one per image" in found.note
        left_out = sum(row["undecided"] for row in records(found.table))
        assert f"{left_out} of 630 are undecided (unreadable" in found.note
        assert "never count as a no" in found.note
        assert "random rows of the bank" in found.note

    def test_the_best_candidate_alone(self) -> None:
        table = verdicts(patch(["unrelated", "concrete"]) + patch(["global"], image="street.jpg"))
        found = interpretability(table, top=1)
        assert (found.name, found.table.column("share")) == ("interpretability-top-1", (0.5,))
        assert "its best candidate is" in found.note
        assert interpretability(table).table.column("share") == (1.0,)

    def test_every_judge_of_every_model_has_a_panel(self) -> None:
        table = study(models=("a", "b"), judges={"x": 1.0, "y": 0.8}, images=8, layers=(0, 3))
        found = interpretability(table)
        assert found.draw is not None
        titles = [axes.get_title(loc="left") for axes in found.draw().axes]
        assert titles == ["a, judged by x", "a, judged by y", "b, judged by x", "b, judged by y"]

    def test_long_names_and_many_layers_have_room(self) -> None:
        lenses = {"latent": SHAPES["latent"], "latent, captions instead of phrases, 1 % of the bank": SHAPES["logit"]}
        found = interpretability(study(lenses=lenses, layers=range(80), images=10))
        assert found.draw is not None
        figure = found.draw()
        figure.draw_without_rendering()
        (axes,) = figure.axes
        assert axes.bbox.width > 0.4 * figure.bbox.width
        boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
        assert len(boxes) == 3
        assert all(box.x1 <= figure.bbox.x1 for box in boxes)
        assert not any(one.overlaps(other) for one in boxes for other in boxes if one is not other)
        signs = [line.get_markevery() for line in axes.get_lines()]
        assert all(80 / every <= 14 for every in signs)


class TestMeans:
    def test_the_table_has_the_mean_and_its_interval(self) -> None:
        found = means(SMALL)
        for row, mean in zip(records(found.table), metrics.over_layers(SMALL), strict=True):
            assert (row["mean"], row["low"], row["high"]) == (mean.value, mean.low, mean.high)
            assert (row["layers"], row["images"]) == (3, mean.images)
        assert "95 % bootstrap intervals by image" in found.note

    def test_baselines_are_hollow(self) -> None:
        found = means(SMALL)
        assert found.draw is not None
        (axes,) = found.draw().axes
        inside = [line.get_markerfacecolor() for line in axes.get_lines() if line.get_marker() != "None"]
        assert inside.count("white") == 3 + 1
        assert len(inside) == 7

    def test_nothing_decided_has_no_mean(self) -> None:
        with pytest.raises(StudyError, match="not one was decided"):
            means(verdicts(patch(["timeout"] * 5)))


class TestByRank:
    def test_the_table_has_every_rank(self) -> None:
        found = by_rank(SMALL)
        for row, tally in zip(records(found.table), metrics.by_rank(SMALL), strict=True):
            assert (row["lens"], row["rank"], row["share"]) == (tally.series.lens, tally.rank, tally.share)
            assert (row["low"], row["high"], row["candidates"]) == (tally.low, tally.high, tally.decided)
        assert "Images, not candidates, are taken for independent" in found.note

    def test_the_figure_has_a_line_per_lens(self) -> None:
        found = by_rank(SMALL)
        assert found.draw is not None
        (axes,) = found.draw().axes
        assert len(axes.get_lines()) == 7
        assert axes.get_xticks().tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("analysis", ANALYSES)
class TestEvery:
    def test_lenses_are_chosen(self, analysis: Callable[..., Finding]) -> None:
        found = analysis(SMALL, lenses=["logit"])
        assert set(found.table.column("lens")) == {"logit", "random"}
        with pytest.raises(OptionError, match="'tuned'"):
            analysis(SMALL, lenses=["tuned"])

    def test_without_verdicts_it_says_so(self, analysis: Callable[..., Finding]) -> None:
        with pytest.raises(StudyError, match="no verdicts to count"):
            analysis(VERDICTS_TABLE.empty_table())

    def test_without_baselines_none_is_explained_below(self, analysis: Callable[..., Finding]) -> None:
        found = analysis(study(images=10, layers=(0, 1), baselines=False))
        assert found.draw is not None
        assert not any("another image" in text.get_text() for text in found.draw().texts)


@pytest.mark.parametrize("analysis", [interpretability, by_rank])
def test_where_all_is_undecided_the_counts_remain_and_nothing_is_drawn(analysis: Callable[..., Finding]) -> None:
    found = analysis(verdicts(patch(["refused"] * 3)))
    assert found.draw is None
    assert set(found.table.column("share")) == {None}
    assert set(found.table.column("refused")) == {1}
