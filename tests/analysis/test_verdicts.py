import pytest
from matplotlib.figure import Figure

from evaluation.made_up import patch, verdicts
from patchlens.analysis import drawing
from patchlens.analysis.verdicts import Point, account, chosen, curve, draw_rows, panels, span
from patchlens.errors import OptionError, StudyError
from patchlens.evaluation.metrics import candidates, interpretability
from patchlens.evaluation.records import VERDICTS_TABLE


def test_rows_of_a_lens_come_with_its_baselines() -> None:
    table = verdicts(
        patch(["concrete"])
        + patch(["global"], baseline="another image")
        + patch(["concrete"], lens="logit")
        + patch(["global"], lens="logit", baseline="another image")
        + patch(["unrelated"], lens="random", baseline="random rows")
    )
    found = chosen(table, ["latent"]).select(["lens", "baseline"]).to_pylist()
    assert [(row["lens"], row["baseline"]) for row in found] == [
        ("latent", None),
        ("latent", "another image"),
        ("random", "random rows"),
    ]
    assert chosen(table) is table
    with pytest.raises(OptionError, match=r"the lens 'tuned' .* Choose among latent, logit, random\."):
        chosen(table, ["latent", "tuned"])
    with pytest.raises(StudyError, match="no verdicts"):
        chosen(VERDICTS_TABLE.empty_table())


class TestAccount:
    def test_one_patch_per_image(self) -> None:
        rows = patch(["concrete"]) + patch(["timeout"], image="b.jpg") + patch(["concrete"], image="c.jpg", layer=1)
        said = account(interpretability(verdicts(rows)))
        assert "rests on 1 patches, one per image and so independent" in said
        assert "1 of 3 are undecided (timeout 1), of no share more than 50.0 %" in said

    def test_several_patches_of_an_image(self) -> None:
        rows = patch(["concrete", "global"]) + patch(["concrete"], image="b.jpg")
        said = account(candidates(verdicts(rows)), "candidates")
        assert "rests on 3 candidates of 2 images. Images, not candidates, are taken for independent" in said
        assert said.endswith("None is undecided.")


def test_spans() -> None:
    assert [span([100, 97]), span([1000]), span([]), span([12.2, 11.9], ".0f")] == ["97 to 100", "1,000", "no", "12"]


def test_titles_name_what_differs() -> None:
    def titles(*rows: tuple[str, str, str]) -> list[str]:
        return list(panels([dict(zip(("model", "judge", "lens"), row, strict=True)) for row in rows]))

    assert titles(("a", "x", "l"), ("a", "x", "m")) == ["a"]
    assert titles(("a", "x", "l"), ("b", "x", "l")) == ["a", "b"]
    assert titles(("a", "x", "l"), ("a", "y", "l")) == ["judged by x", "judged by y"]
    # Judges of one model lie side by side, in whatever order the rows come.
    both = titles(("a", "x", "l"), ("b", "x", "l"), ("a", "y", "l"), ("b", "y", "l"))
    assert both == ["a, judged by x", "a, judged by y", "b, judged by x", "b, judged by y"]
    rows = [{"model": "a", "judge": "x", "lens": lens, "value": 1} for lens in ("l", "m")]
    assert list(panels(rows, "lens")) == ["l", "m"]


def test_a_line_leaves_out_what_is_unknown() -> None:
    rows = [
        {"layer": 4, "share": 0.5, "low": 0.4, "high": 0.6},
        {"layer": 0, "share": None, "low": 0.0, "high": 1.0},
        {"layer": 2, "share": 0.3, "low": 0.2, "high": 0.4},
    ]
    look = drawing.Look("#000000", "o")
    assert curve(rows, "a", look) == drawing.Line("a", [2, 4], [0.3, 0.5], look, [0.2, 0.4], [0.4, 0.6])
    assert curve(rows, "a", look, dashed=True).low is None


def test_rows_begin_at_the_top_and_hollow_points_are_hollow() -> None:
    look = drawing.Look("#009e73", "o")
    axes = Figure().subplots()
    draw_rows(axes, ["first", "second"], [Point(0, 0.5, 0.4, 0.6, look), Point(1, 0.2, None, None, look, filled=False)])
    points = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert [float(point.get_ydata()[0]) for point in points] == [0, 1]
    assert [point.get_markerfacecolor() for point in points] == ["#009e73", "white"]
    assert len(axes.get_lines()) == 3  # one interval is known
    bottom, top = axes.get_ylim()
    assert bottom > top
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second"]
