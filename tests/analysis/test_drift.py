import numpy as np
import pytest
from tests.analysis.tables import drawn, records, states

from patchlens.analysis.drift import drift
from patchlens.errors import StudyError


def some(models: tuple[str, ...] = ("tiny",), images: int = 5) -> list[dict[str, object]]:
    rng = np.random.default_rng(0)
    return [
        {
            **{"model": model, "image": f"{image}.png", "kind": kind, "layer": layer, "position": position},
            "drift": float(np.float32(1.0 if layer == 0 else rng.uniform(-0.2, 1))),
        }
        for model in models
        for image in range(images)
        for kind, count in (("visual", 2 + image), ("text", 3))
        for position in range(count)
        for layer in (0, 1, 7)
    ]


def test_every_number_is_what_a_loop_finds() -> None:
    rows = some(("tiny", "other"))
    found = records(drift(states(rows)))
    assert len(found) == 2 * 2 * 3
    for cell in found:
        keys = ("model", "kind", "layer")
        part = [row for row in rows if all(row[key] == cell[key] for key in keys)]
        cosines = [row["drift"] for row in part]
        assert (cell["tokens"], cell["images"]) == (len(cosines), len({row["image"] for row in part}))
        assert cell["mean cosine"] == pytest.approx(np.mean(cosines))
        quartiles = [cell[name] for name in ("lower quartile", "median", "upper quartile")]
        assert quartiles == pytest.approx(np.percentile(cosines, [25, 50, 75]).tolist())
        assert cell["low"] <= cell["mean cosine"] <= cell["high"]


def test_intervals_resample_images_and_not_tokens() -> None:
    # Of two images of a hundred tokens each, one turned away and the other did not.
    rows = [
        {"image": image, "position": position, "layer": 1, "drift": drift}
        for image, drift in (("a", 1.0), ("b", 0.0))
        for position in range(100)
    ]
    (found,) = records(drift(states(rows)))
    assert (found["mean cosine"], found["low"], found["high"]) == (0.5, 0.0, 1.0)


def test_one_image_has_no_interval_and_can_be_drawn() -> None:
    found = drift(states(some(images=1)))
    assert {(row["low"], row["high"]) for row in records(found)} == {(None, None)}
    assert drawn(found)


def test_unknown_drift_is_left_out() -> None:
    found = records(drift(states([{"drift": None}, {"drift": 0.5, "position": 1}])))
    assert [(row["tokens"], row["mean cosine"]) for row in found] == [(1, 0.5)]


@pytest.mark.parametrize("rows", [[], [{"drift": None}]])
def test_without_any_there_is_nothing_to_say(rows: list[dict[str, object]]) -> None:
    with pytest.raises(StudyError, match=rf"None of {len(rows)} states has a drift"):
        drift(states(rows))


def test_the_figure_names_both_kinds_in_every_panel() -> None:
    figure = drift(states(some(("tiny", "other")))).draw()
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["tiny", "other"]
    assert [sorted(text.get_text() for text in axes.texts) for axes in figure.axes] == [["text", "visual"]] * 2
