import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.analysis.tables import candidates, drawn, made_up, records

from patchlens.analysis.similarity import _edges, similarity, similarity_histograms
from patchlens.errors import OptionError, StudyError

LENSES = ("latent", "embedding", "logit")


def test_every_number_is_what_a_loop_finds() -> None:
    table = made_up(models=("tiny", "other"), lenses=LENSES)
    rows = table.to_pylist()
    found = records(similarity(table))
    assert {row["lens"] for row in found} == {"latent", "embedding"}
    assert len(found) == 2 * 2 * 3
    for cell in found:
        keys = ("model", "lens", "layer")
        cosines = [row["similarity"] for row in rows if row["rank"] == 1 and all(row[k] == cell[k] for k in keys)]
        assert (cell["tokens"], cell["images"]) == (len(cosines), 6)
        assert cell["mean cosine"] == pytest.approx(np.mean(cosines))
        assert (cell["least"], cell["largest"]) == pytest.approx((min(cosines), max(cosines)))
        for percent in (1, 5, 25, 50, 75, 95, 99):
            assert cell[f"{percent} %"] == pytest.approx(np.percentile(cosines, percent))
        assert cell["low"] <= cell["mean cosine"] <= cell["high"]


def test_histograms_count_every_token_once_in_the_bin_of_its_cosine() -> None:
    table = made_up(lenses=LENSES)
    rows = [row for row in table.to_pylist() if row["rank"] == 1 and row["lens"] != "logit"]
    found = records(similarity_histograms(table, width=0.1))
    for cell in found:
        here = [row["similarity"] for row in rows if (row["lens"], row["layer"]) == (cell["lens"], cell["layer"])]
        assert cell["tokens"] == sum(cell["from"] <= cosine < cell["to"] for cosine in here)
        assert cell["share"] == cell["tokens"] / len(here)
    assert sum(cell["tokens"] for cell in found) == len(rows)
    edges = {lens: [cell["from"] for cell in found if cell["lens"] == lens and cell["layer"] == 0] for lens in LENSES}
    assert edges["latent"] == edges["embedding"]


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20), st.sampled_from([0.02, 0.03, 0.1, 1.0]))
@example([0.07], 0.01)
@example([0.0, 0.0], 0.02)
@example([0.29], 0.01)
@example([-1.0, 1.0], 0.02)
def test_bins_hold_every_value(values: list[float], width: float) -> None:
    edges = _edges(values, width)
    assert np.histogram(values, edges)[0].sum() == len(values)
    assert np.diff(edges) == pytest.approx(width)
    assert edges[0] > min(values) - 1.01 * width
    assert edges[-1] < max(values) + 1.01 * width


def test_baselines_and_lower_ranks_do_not_count() -> None:
    rows = [
        {"similarity": 0.5},
        {"similarity": 0.25, "rank": 2},
        {"similarity": 0.75, "baseline": "another image"},
        {"baseline": "random rows", "lens": "random"},
    ]
    assert [(row["lens"], row["mean cosine"]) for row in records(similarity(candidates(rows)))] == [("latent", 0.5)]


@pytest.mark.parametrize("analysis", [similarity, similarity_histograms])
def test_logit_lens_alone_has_no_similarity(analysis: type) -> None:
    with pytest.raises(StudyError, match="LogitLens gives none"):
        analysis(made_up(lenses=("logit",)))
    with pytest.raises(StudyError, match="of 0 candidates"):
        analysis(candidates([]))


def test_a_width_out_of_range_is_refused() -> None:
    with pytest.raises(OptionError, match="0 wide"):
        similarity_histograms(made_up(), width=0.0)


def test_figures_are_drawn_for_one_image_and_for_several_models() -> None:
    assert drawn(similarity(made_up(images=1)))
    assert drawn(similarity(made_up(models=("tiny", "other"), lenses=LENSES)))
    found = similarity_histograms(made_up(models=("tiny", "other"), lenses=LENSES))
    assert drawn(found)
    titles = [axes.get_title(loc="left") for axes in found.draw().axes]
    assert titles == ["tiny: LatentLens", "tiny: EmbeddingLens", "other: LatentLens", "other: EmbeddingLens"]
