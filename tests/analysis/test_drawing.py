import re
import subprocess
import sys
from itertools import combinations, pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import rc_context, rcParams
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from patchlens.analysis import drawing
from patchlens.analysis.drawing import Bars, Line
from patchlens.analysis.finding import Finding, Table
from patchlens.errors import MissingExtra, StorageError

LENSES = ("latent", "embedding", "logit", "random", "latent, 1 % of the bank")


@drawing.style()
def some_lines(count: int = 3, *, height: float = 0.5) -> Figure:
    figure, panels = drawing.figure_of(["one", "two"], x="layer", y="share")
    looks = drawing.lens_looks([f"lens {number}" for number in range(count)])
    for axes in panels:
        drawing.percent_axis(axes)
        drawing.layer_axis(axes, (0, 8, 31))
        ends = ([height - 0.1] * 3, [None, height, 1.0])
        drawing.draw_lines(
            axes, [Line(label, (0, 8, 31), (0, 1.0, height), look, *ends) for label, look in looks.items()]
        )
    return figure


class TestStyle:
    def test_it_leaves_no_trace_and_takes_no_notice_of_a_persons_own(self, tmp_path: Path) -> None:
        before = dict(rcParams)
        plain, _ = drawing.save_figure(some_lines(), tmp_path / "plain")
        with rc_context({"font.size": 20, "axes.facecolor": "black", "lines.linewidth": 9}):
            own, _ = drawing.save_figure(some_lines(), tmp_path / "own")
            assert rcParams["font.size"] == 20
        assert own.read_bytes() == plain.read_bytes()
        assert dict(rcParams) == before

    def test_matplotlib_is_loaded_by_drawing_alone_and_pyplot_never(self) -> None:
        code = """
import sys
from patchlens.analysis import bank_size, drawing, drift, leap, norms, overlap, similarity, word_classes
assert "matplotlib" not in sys.modules
with drawing.style():
    figure, (axes,) = drawing.figure_of(["one"], x="", y="")
    drawing.draw_lines(axes, [drawing.Line("a", [0], [1], drawing.KINDS["text"])])
assert drawing.svg_text(figure).startswith("<svg")
assert "matplotlib.pyplot" not in sys.modules
"""
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert result.stderr == ""

    def test_only_one_file_loads_it(self) -> None:
        folder = Path(drawing.__file__).parent
        loads = re.compile(r"^ *(?:from|import) matplotlib", re.MULTILINE)
        for path in folder.glob("*.py"):
            text = re.sub(r"\nif TYPE_CHECKING:\n(?:    .*\n)+", "\n", path.read_text())
            assert path.name == "drawing.py" or not loads.search(text), path

    def test_without_matplotlib_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(MissingExtra, match=r"pip install 'patchlens\[study\]'"):
            some_lines()
        with pytest.raises(MissingExtra):
            drawing.need_matplotlib()
        assert Finding("name", "title", "note", Table.of(["a"], [[1]]), some_lines).table.to_csv() == "a\n1\n"


class TestSaving:
    def test_the_same_numbers_give_the_same_bytes(self, tmp_path: Path) -> None:
        first = drawing.save_figure(some_lines(), tmp_path / "new" / "a.b")
        figure = some_lines()
        drawing.svg_text(figure)
        second = drawing.save_figure(figure, tmp_path / "again")
        assert [path.name for path in first] == ["a.b.png", "a.b.svg"]
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
        other = drawing.save_figure(some_lines(height=0.6), tmp_path / "other")
        assert other[1].read_bytes() != first[1].read_bytes()

    def test_text_is_text_and_there_is_no_date(self, tmp_path: Path) -> None:
        png, svg = drawing.save_figure(some_lines(), tmp_path / "a")
        text = svg.read_text()
        elements = [element for element in ElementTree.fromstring(text).iter() if element.tag.endswith("}text")]
        said = {"".join(element.itertext()) for element in elements}
        assert {"one", "two", "layer", "share", "lens 0", "100 %"} <= said
        assert "<dc:date>" not in text
        assert b"matplotlib" not in png.read_bytes()[:200]

    def test_a_full_or_closed_disk_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StorageError):
            drawing.save_figure(some_lines(), tmp_path / "file" / "a")

    def test_several_fit_into_one_page(self) -> None:
        elements = [drawing.svg_text(some_lines()), drawing.svg_text(some_lines(height=0.6))]
        ids = [re.findall(r'\bid="([^"]+)"', element) for element in elements]
        assert len(set(ids[0] + ids[1])) == len(ids[0]) + len(ids[1])
        for element, own in zip(elements, ids, strict=True):
            used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', element)
            assert used
            assert {one or other for one, other in used} <= set(own)
            assert ElementTree.fromstring(element).tag.endswith("svg")
            assert "<style" not in element
            assert "stroke-linecap: butt" in element.splitlines()[0]


class TestLooks:
    def test_lenses_keep_theirs_in_any_company(self) -> None:
        alone = {lens: drawing.lens_looks([lens])[lens] for lens in LENSES[:4]}
        together = drawing.lens_looks(LENSES[::-1])
        assert {lens: together[lens] for lens in alone} == alone
        assert len(set(together.values())) == len({look.marker for look in together.values()}) == len(LENSES)

    def test_eight_others_can_be_told_apart(self) -> None:
        looks = drawing.lens_looks([*LENSES[:4], *map(str, range(8))])
        assert len({look.color for look in looks.values()}) == 12
        assert len({look.marker for look in looks.values()}) == 12

    def test_shades_go_from_pale_to_dark(self) -> None:
        light = [sum(to_rgb(look.color)) for look in drawing.shades(5)]
        assert light == sorted(light, reverse=True)
        assert drawing.shades(1) == [drawing.shades(2)[-1].__class__(drawing.shades(2)[-1].color, "o")]

    def test_titles_are_those_of_the_pages(self) -> None:
        assert drawing.lens_title("latent, 1 % of the bank") == "LatentLens, 1 % of the bank"
        assert (drawing.lens_title("random"), drawing.lens_title("mine")) == ("random rows", "mine")

    @pytest.mark.parametrize("color", ["#ffffff", "#deebf7", "#56b4e9", "#009e73", "#d55e00", "#08306b", "#000000"])
    def test_text_can_be_read_on_every_color(self, color: str) -> None:
        text, ground = luminance(drawing._on(to_rgb(color))), luminance(color)
        assert (max(text, ground) + 0.05) / (min(text, ground) + 0.05) > 3

    def test_names_of_lines_can_be_read_on_white(self) -> None:
        for look in drawing.lens_looks([*LENSES, "a", "b"]).values():
            assert 1.05 / (luminance(drawing._darker(look.color)) + 0.05) > 3


def luminance(color: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


class TestLines:
    @given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 0.15)), max_size=6))
    def test_labels_stay_in_order_and_apart_and_below_the_top(self, labels: list[tuple[float, float]]) -> None:
        labels.sort()
        wanted, sizes = [place for place, _ in labels], [size for _, size in labels]
        places = drawing._apart(wanted, sizes, 1.0)
        for (one, of_one), (other, of_other) in pairwise(zip(places, sizes, strict=True)):
            assert other - one >= (of_one + of_other) / 2 - 1e-9
        assert all(place <= 1 + 1e-9 for place in places)
        if all(b - a >= max(sizes) for a, b in pairwise(wanted)):
            assert places == pytest.approx(wanted)

    @pytest.mark.parametrize("height", [0.0, 0.5, 1.0])
    def test_labels_of_lines_that_end_together_do_not_cover_each_other(self, height: float) -> None:
        figure = some_lines(6, height=height)
        figure.draw_without_rendering()
        for axes in figure.axes:
            boxes = [text.get_window_extent() for text in axes.texts]
            assert len(boxes) == 6
            for one, other in combinations(boxes, 2):
                assert min(one.y1, other.y1) - max(one.y0, other.y0) < 1.5  # pixels of 100 to the inch
            assert all(box.x1 <= figure.bbox.x1 for box in boxes)

    def test_a_line_without_a_label_or_an_interval_or_a_place_is_drawn(self) -> None:
        look = drawing.KINDS["text"]
        with drawing.style():
            figure, (axes,) = drawing.figure_of(["one"], x="", y="")
            lines = [Line("", [0], [1], look), Line("gone", [], [], look), Line("b", [0], [0.5], look)]
            drawing.draw_lines(axes, lines)
        assert [text.get_text() for text in axes.texts] == ["b"]
        assert len(axes.collections) == 0
        assert drawing.svg_text(figure)

    def test_intervals_are_bands_where_they_are_known(self) -> None:
        band = some_lines(1).axes[0].collections[0].get_paths()[0].vertices
        assert set(band[:, 0]) == {8, 31}

    @pytest.mark.parametrize("layers", [(0,), (0, 1, 2, 4, 8, 16, 24, 30, 31), (63, 0, 1), tuple(range(33))])
    def test_every_layer_has_a_mark_and_the_last_its_name(self, layers: tuple[int, ...]) -> None:
        with drawing.style():
            figure, (axes,) = drawing.figure_of(["one"], x="layer", y="")
            drawing.layer_axis(axes, layers)
        figure.draw_without_rendering()
        named = {int(label.get_text()) for label in axes.get_xticklabels()}
        assert max(layers) in named <= set(layers)
        assert set(axes.get_xticks()) | set(axes.get_xticks(minor=True)) == set(layers)
        boxes = sorted((label.get_window_extent() for label in axes.get_xticklabels()), key=lambda box: box.x0)
        assert all(one.x1 < other.x0 for one, other in pairwise(boxes))


class TestPanels:
    def test_axes_are_named_at_the_outer_sides_alone(self) -> None:
        with drawing.style():
            figure, panels = drawing.figure_of(list("abcde"), x="layer", y="share")
        assert len(figure.axes) == len(panels) == 5
        assert [axes.get_xlabel() for axes in panels] == ["", "", "layer", "layer", "layer"]
        assert [axes.get_ylabel() for axes in panels] == ["share", "", "", "share", ""]

    def test_a_footnote_is_as_wide_as_the_figure(self) -> None:
        figure = some_lines()
        drawing.footnote(figure, "Intervals take images for independent, and no token. " * 9)
        figure.draw_without_rendering()
        note = next(text for text in figure.texts if text.get_text().startswith("Intervals"))
        box = note.get_window_extent()
        assert 0.7 * figure.bbox.width < box.width < figure.bbox.width
        assert box.y1 < min(axes.get_tightbbox().y0 for axes in figure.axes)

    @pytest.mark.parametrize(
        ("limits", "labels"), [((2, 3e5), ["10", "1,000", "100,000"]), ((0.4, 3), ["0.5", "1", "2"])]
    )
    def test_a_logarithmic_axis_has_plain_numbers(self, limits: tuple[float, float], labels: list[str]) -> None:
        with drawing.style():
            figure, (axes,) = drawing.figure_of(["one"], x="", y="")
            axes.set_ylim(limits)
            drawing.log_axis(axes, "y")
        figure.draw_without_rendering()
        low, high = limits
        shown = [label.get_text() for label in axes.get_yticklabels() if low <= label.get_position()[1] <= high]
        assert set(labels) <= set(shown)


class TestOtherKinds:
    def test_a_heat_map_prints_every_value_in_its_cell(self) -> None:
        values = {(0, 0): 0.2, (0, 1): 1, (1, 1): 0.0}
        texts = {place: f"{place} {value}" for place, value in values.items()}
        with drawing.style():
            figure, (axes,) = drawing.figure_of(["one"], x="", y="")
            drawing.draw_heat_map(
                axes, values, rows=["a", "b"], columns=["x", "y"], texts=texts, bold=[(0, 1)], framed=[(1, 1)]
            )
        found = {text.get_text(): text for text in axes.texts}
        for (row, column), text in texts.items():
            assert found[text].get_position() == pytest.approx((column + 0.5, row + 0.5), abs=0.1)
            assert (found[text].get_fontweight() == "bold") == ((row, column) == (0, 1))
        assert found["(0, 1) 1"].get_color() == "white"
        assert [(patch.get_x(), patch.get_y()) for patch in axes.patches] == [(1, 1)]
        assert drawing.svg_text(figure)

    def test_ridges_stand_on_their_names_and_share_a_scale(self) -> None:
        with drawing.style():
            figure, (axes,) = drawing.figure_of(["one"], x="", y="")
            drawing.draw_ridges(
                axes, [0, 0.5, 1], [[0.5, 0.5], [0.0, 1.0]], names=["0", "8"], look=drawing.KINDS["text"], most=2.0
            )
        tops = [ridge.get_paths()[0].vertices[:, 1].max() for ridge in axes.collections]
        assert tops == pytest.approx([0.95 / 4, 1 + 0.95 / 2])
        assert drawing.svg_text(figure)

    def test_bars_have_their_height_and_their_interval(self) -> None:
        looks = drawing.lens_looks(["latent", "logit"])
        with drawing.style():
            figure, (axes,) = drawing.figure_of(["title"], x="", y="share")
            series = [Bars("a", [1, 2], looks["latent"], [0.5, None], [1.5, None]), Bars("b", [3, 4], looks["logit"])]
            drawing.draw_bars(axes, ["x", "y"], series)
        assert [bar.get_height() for bar in axes.patches] == [1, 2, 3, 4]
        edges = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches)
        assert all(one[1] <= other[0] for one, other in pairwise(edges))
        assert [list(line.get_ydata()) for line in axes.lines] == [[0.5, 1.5]]
        figure.draw_without_rendering()
        title = next(text for text in axes.get_children() if getattr(text, "get_text", str)() == "title")
        assert title.get_window_extent().y0 >= axes.get_legend().get_window_extent().y1

    def test_stacks_add_up_and_are_named_once(self) -> None:
        looks = drawing.shades(2)
        parts = {"low": ([0.25, 0.95], looks[0]), "high": ([0.75, 0.05], looks[1])}
        with drawing.style():
            figure, panels = drawing.figure_of(["one", "two"], x="", y="")
            for axes in panels:
                drawing.draw_stacks(axes, ["x", "y"], parts)
            drawing.name_parts(figure, panels)
        bars = [(bar.get_y(), bar.get_height()) for bar in panels[0].patches]
        np.testing.assert_allclose(bars, [(0, 0.25), (0, 0.95), (0.25, 0.75), (0.95, 0.05)])
        assert [text.get_text() for text in panels[0].texts] == ["25", "95", "75"]  # 5 has no room
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["high", "low"]

    def test_points_and_levels(self) -> None:
        with drawing.style():
            figure, (axes,) = drawing.figure_of(["one"], x="", y="")
            drawing.draw_points(axes, [(1, 0.5), (2, 1)], drawing.KINDS["text"], label="text")
            drawing.draw_points(axes, [], drawing.KINDS["visual"], label="visual")
            drawing.draw_level(axes, 0.3, "chance")
            drawing.name_parts(figure, [axes])
        assert [text.get_text() for text in axes.texts] == ["chance"]
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["text"]


def test_a_line_without_a_point_takes_no_room() -> None:
    with drawing.style():
        figure, panels = drawing.figure_of(["one", "two", "three"], x="layer", y="share")
        look = drawing.lens_looks(["latent"])["latent"]
        drawing.draw_lines(panels[2], [Line("points", [0, 1], [0.5, 0.5], look), Line("none", [], [], look)])
        figure.canvas.draw()
        widths = [axes.get_window_extent().width for axes in panels]
    assert min(widths) > 0.8 * max(widths)
    assert [text.get_text() for text in panels[2].texts] == ["points"]
