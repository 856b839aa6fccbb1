import numpy as np
import pytest
from tests.analysis.tables import drawn, records, states

from patchlens.analysis.norms import gaussian_largest, high_norm_tokens, norms
from patchlens.errors import OptionError, StudyError
from patchlens.evaluation.intervals import clustered


def some(models: tuple[str, ...] = ("tiny",)) -> list[dict[str, object]]:
    """Tokens about 2 long, but the first text token of most images, which is 200 long from layer 1 on."""
    rng = np.random.default_rng(0)
    return [
        {
            **{"model": model, "image": f"{image}.png", "kind": kind, "layer": layer, "position": position},
            "norm": float(
                np.float32(
                    (sink := 200.0 + image if layer and place == 0 and kind == "text" and image else 0)
                    or rng.uniform(1, 3)
                )
            ),
            "largest": 190.0 if sink else 0.25,
        }
        for model in models
        for image in range(5)
        for kind, first in (("text", 0), ("visual", 4))
        for place, position in enumerate(range(first, first + 4))
        for layer in (0, 1, 7)
    ]


def test_every_number_is_what_a_loop_finds() -> None:
    rows = some(("tiny", "other"))
    found = records(norms(states(rows)))
    assert len(found) == 2 * 2 * 3
    for cell in found:
        part = [row for row in rows if all(row[key] == cell[key] for key in ("model", "kind", "layer"))]
        lengths = [row["norm"] for row in part]
        assert (cell["tokens"], cell["images"]) == (len(lengths), 5)
        assert cell["mean norm"] == pytest.approx(np.mean(lengths))
        spread = [cell[name] for name in ("least", "lower quartile", "median", "upper quartile", "99 %", "largest")]
        assert spread == pytest.approx(np.percentile(lengths, [0, 25, 50, 75, 99, 100]).tolist())
        high = [row for row in part if row["norm"] > 10 * np.median(lengths)]
        hits = np.array([sum(row["image"] == f"{image}.png" for row in high) for image in range(5)])
        shares = (len(high) / len(lengths), *clustered(hits, np.full(5, 4)))
        assert cell["high-norm tokens"] == len(high) == (4 if cell["kind"] == "text" and cell["layer"] else 0)
        names = ("share of high-norm tokens", "low share", "high share")
        assert [cell[name] for name in names] == pytest.approx(shares)


def test_high_norm_tokens_are_listed_with_where_they_stand() -> None:
    found = high_norm_tokens(states(some()), d_model={"tiny": 64})
    (row,) = records(found)
    assert (row["model"], row["kind"], row["position"]) == ("tiny", "text", 0)
    assert (row["images"], row["of images"], row["first layer"], row["last layer"]) == (4, 5, 1, 7)
    assert row["norm"] == 204.0
    assert row["largest entry / norm"] == pytest.approx(190 / 204)
    assert row["expected of a Gaussian"] == gaussian_largest(64)
    medians = {
        layer: np.median([r["norm"] for r in some() if r["layer"] == layer and r["kind"] == "text"]) for layer in (1, 7)
    }
    assert row["times the median"] == pytest.approx(204 / min(medians.values()))
    assert drawn(found)


def test_positions_of_most_images_come_first_and_the_rest_is_counted() -> None:
    rows = [
        {"image": image, "position": position, "norm": 50.0 + position if position in high else 1.0}
        for image, high in (("a", {3, 7}), ("b", {7}), ("c", {7, 8}))
        for position in range(20)
    ]
    found = high_norm_tokens(states(rows), most=2)
    assert [(row["position"], row["images"]) for row in records(found)] == [(7, 3), (8, 1)]
    assert found.note.startswith("3 positions hold")
    assert "the 2 of most images are listed" in found.note
    assert [row["position"] for row in records(high_norm_tokens(states(rows)))] == [7, 8, 3]


def test_without_high_norm_tokens_the_list_is_empty_and_nothing_is_drawn() -> None:
    found = high_norm_tokens(states([{"norm": 1.0}, {"norm": 1.5, "position": 1}]))
    assert (found.table.rows, found.draw) == ((), None)


def test_an_unknown_largest_entry_stays_unknown() -> None:
    rows = [{"position": position, "norm": 1.0 if position else 99.0, "largest": None} for position in range(5)]
    found = high_norm_tokens(states(rows))
    assert [row["largest entry / norm"] for row in records(found)] == [None]
    assert drawn(found)


class TestGaussianLargest:
    @pytest.mark.parametrize("width", [1, 2, 64, 512])
    def test_drawn_vectors_have_it_on_average(self, width: int) -> None:
        vectors = np.random.default_rng(0).normal(size=(20_000, width))
        ratios = np.abs(vectors).max(1) / np.linalg.norm(vectors, axis=1)
        assert gaussian_largest(width) == pytest.approx(ratios.mean(), rel=0.01)

    def test_in_two_dimensions_it_is_a_mean_over_the_circle(self) -> None:
        assert gaussian_largest(2) == pytest.approx(2 * np.sqrt(2) / np.pi, abs=1e-6)


def test_figures_are_drawn_for_one_token_and_for_several_models() -> None:
    assert drawn(norms(states(some(("tiny", "other")))))
    assert drawn(norms(states([{"norm": 0.0}])))


@pytest.mark.parametrize("analysis", [norms, high_norm_tokens])
def test_what_cannot_be_asked_is_refused(analysis: type) -> None:
    with pytest.raises(StudyError, match="no states"):
        analysis(states([]))
    with pytest.raises(OptionError, match="longer than 1 times the median"):
        analysis(states([{}]), multiple=1.0)


def test_a_list_needs_a_place_and_a_vector_an_entry() -> None:
    with pytest.raises(OptionError, match="0 positions"):
        high_norm_tokens(states([{}]), most=0)
    with pytest.raises(OptionError, match="width of the states is 0"):
        high_norm_tokens(states([{}]), d_model={"tiny": 0})
