from itertools import product

import numpy as np
import pytest
from tests.analysis.tables import candidates, drawn, made_up, records

from patchlens.analysis.leap import _p, leap, leap_peaks
from patchlens.errors import OptionError, StudyError
from patchlens.evaluation.intervals import clustered
from patchlens.evaluation.statistics import holm


def test_every_cell_is_what_a_loop_counts() -> None:
    table = made_up(models=("tiny", "other"), lenses=("latent", "latent, part", "logit"))
    rows = table.to_pylist()
    found = records(leap(table, draws=50))
    assert {(row["model"], row["lens"]) for row in found} == {
        (model, lens) for model in ("tiny", "other") for lens in ("latent", "latent, part")
    }
    assert len(found) == 2 * 2 * 2 * 3 * 3
    for cell in found:
        hits, trials = np.zeros(6), np.zeros(6)
        for row in rows:
            if all(row[name] == cell[name] for name in ("model", "lens")) and row["layer"] == cell["visual layer"]:
                if row["rank"] <= cell["top"]:
                    image = int(row["image"].removesuffix(".png"))
                    trials[image] += 1
                    hits[image] += row["context_layer"] == cell["contextual layer"]
        low, high = clustered(hits, trials)
        assert (cell["count"], cell["candidates"], cell["images"]) == (hits.sum(), trials.sum(), 6)
        assert (cell["share"], cell["low"], cell["high"]) == pytest.approx((hits.sum() / trials.sum(), low, high))
        expected = "above" if low > 1 / 3 else "below" if high < 1 / 3 else "not told apart"
        assert (cell["against chance"], cell["chance"]) == (expected, 1 / 3)


def test_layers_that_were_never_nearest_lower_the_chance() -> None:
    found = records(leap(made_up(lenses=("latent",)), layers=(8, 4, 2, 1), draws=50))
    assert {row["contextual layer"] for row in found} == {1, 2, 4, 8}
    assert {row["chance"] for row in found} == {0.25}
    assert all(row["count"] == 0 and row["low"] == 0 for row in found if row["contextual layer"] == 8)


def test_each_model_has_the_layers_of_its_own_bank() -> None:
    table = made_up(models=("tiny", "other", "third"), lenses=("latent",))
    found = records(leap(table, layers={"tiny": (1, 2, 4), "other": (1, 2, 4, 8, 16)}, draws=10))
    assert {(row["model"], row["chance"]) for row in found} == {("tiny", 1 / 3), ("other", 0.2), ("third", 1 / 3)}


def test_holm_is_over_the_visual_layers_of_a_model_lens_and_top() -> None:
    found = [row for row in records(leap(made_up(), draws=200)) if row["top"] == 1]
    by_layer = {row["visual layer"]: (row["p"], row["p (Holm)"]) for row in found}
    p_values, adjusted = zip(*by_layer.values(), strict=True)
    assert adjusted == holm(p_values)


class TestP:
    def test_it_counts_every_choice_of_signs(self) -> None:
        counts = np.random.default_rng(0).integers(0, 6, size=(7, 4)).astype(float)
        away = counts - counts.sum(1, keepdims=True) / 4
        spread = np.sqrt((away**2).sum(0))
        largest = [abs((np.array(signs)[:, None] * away).sum(0) / spread).max() for signs in product((-1, 1), repeat=7)]
        exact = np.mean(np.array(largest) >= abs(away.sum(0) / spread).max() - 1e-9)
        assert _p(counts, 20_000, 0) == pytest.approx(exact, abs=0.01)

    def test_alarms_are_as_rare_as_they_should_be(self) -> None:
        rng = np.random.default_rng(0)
        p_values = [_p(rng.multinomial(10, [0.25] * 4, size=30).astype(float), 200, 0) for _ in range(300)]
        assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.03)

    def test_images_that_all_depart_in_their_own_way_tell_nothing(self) -> None:
        # A thousand candidates in ten images: as single trials they would be far from chance.
        each = [[100.0, 0.0]] * 5 + [[0.0, 100.0]] * 5
        assert _p(np.array(each), 2000, 0) == 1.0

    def test_what_all_images_share_is_found(self) -> None:
        assert _p(np.array([[8.0, 2.0]] * 20), 999, 0) == 1 / 1000

    def test_one_contextual_layer_leaves_nothing_to_test(self) -> None:
        assert _p(np.array([[5.0], [5.0]]), 10, 0) is None
        only = candidates([{"context_layer": 3, "image": name} for name in "ab"])
        assert [(row["p"], row["share"], row["chance"]) for row in records(leap(only, k=1))] == [(None, 1.0, 1.0)]


def test_peaks_name_the_most_frequent_layer_and_the_lower_of_equals() -> None:
    layers = {0: [4, 4, 2], 5: [2, 4]}
    table = candidates(
        {"layer": visual, "context_layer": found, "position": number, "column": number}
        for visual, those in layers.items()
        for number, found in enumerate(those)
    )
    peaks = leap_peaks(leap(table, k=1, draws=10))
    assert peaks.draw is None
    assert [(row["visual layer"], row["contextual layer"], row["share"]) for row in records(peaks)] == [
        (0, 4, 2 / 3),
        (5, 2, 0.5),
    ]


def test_one_image_says_nothing_of_chance() -> None:
    found = records(leap(made_up(images=1), draws=10))
    assert {row["against chance"] for row in found} == {"not told apart"}
    assert {(row["low"], row["high"]) for row in found} == {(0.0, 1.0)}


def test_baselines_do_not_count() -> None:
    rows = [{"context_layer": 1}, {"context_layer": 2, "baseline": "another image", "image": "b.png"}]
    assert [row["contextual layer"] for row in records(leap(candidates(rows), k=1))] == [1]


def test_the_figure_has_a_panel_for_each_model_and_lens() -> None:
    found = leap(made_up(models=("tiny", "other"), lenses=("latent", "logit")), draws=10)
    assert drawn(found)
    figure = found.draw()
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["tiny: LatentLens", "other: LatentLens"]
    cells = {text.get_text() for text in figure.axes[0].texts}
    expected = [row for row in records(found) if row["model"] == "tiny" and row["top"] == 5]
    assert cells == {
        f"({100 * row['share']:.0f})" if row["against chance"] == "not told apart" else f"{100 * row['share']:.0f}"
        for row in expected
    }


@pytest.mark.parametrize("rows", [[], [{"lens": "logit", "logit": 1.0}]])
def test_without_contextual_layers_there_is_no_leap(rows: list[dict[str, object]]) -> None:
    with pytest.raises(StudyError, match="has a contextual layer"):
        leap(candidates(rows))


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(OptionError, match=r"contextual layer 4, which is not among those named \(1, 2\)"):
        leap(made_up(), layers=(1, 2))
    with pytest.raises(OptionError, match="0 draws"):
        leap(made_up(), draws=0)
