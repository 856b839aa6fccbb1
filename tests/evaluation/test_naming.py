import numpy as np
import pytest

from lenses import synthetic
from patchlens.errors import OptionError
from patchlens.evaluation.naming import REGIONS, WHAT, Share, name_shares
from patchlens.evaluation.truth import PatchTruth, SceneTruth
from patchlens.lenses.reading import Readings

WORDS = synthetic.WORDS


def truth(name: str, rows: int, columns: int, seed: int) -> SceneTruth:
    """Random truths out of the words that the synthetic readings use, some in other case or absent."""
    rng = np.random.default_rng(seed)
    pool = [word.lower() for word in WORDS]

    def some() -> frozenset[str]:
        return frozenset(rng.choice(pool, size=rng.integers(0, 3), replace=False).tolist())

    patches = tuple(
        PatchTruth(bool(rng.integers(2)), some(), some(), some(), some(), some(), some()) for _ in range(rows * columns)
    )
    return SceneTruth(name, rows, columns, patches)


def slowly(readings: Readings, truths: dict[str, SceneTruth], share: Share) -> tuple[int, int]:
    """Hits and tokens, one reading at a time."""
    names = {
        "there": ("thing", "color", "word", "place", "kind"),
        "scene": ("thing", "color", "word", "place", "kind", "elsewhere"),
    }.get(share.what, (share.what,))
    hits = tokens = 0
    for reading in readings:
        if (reading.lens, reading.layer) != (share.lens, share.layer) or reading.image not in truths:
            continue
        assert reading.row is not None
        assert reading.column is not None
        patch = truths[reading.image].at(reading.row, reading.column)
        if share.region != "all" and patch.on_object != (share.region == "object"):
            continue
        true = set().union(*(getattr(patch, name) for name in names))
        if len(names) == 1 and not true:
            continue
        tokens += 1
        hits += any(word.lower() in true for word in reading.words)
    return hits, tokens


def test_counts_agree_with_one_reading_at_a_time() -> None:
    readings = Readings.join([synthetic.readings("a", rows=3, columns=4), synthetic.readings("b", rows=2, columns=5)])
    truths = {"a": truth("a", 3, 4, 0), "b": truth("b", 2, 5, 1)}
    shares = name_shares(readings, truths)
    assert len(shares) == 3 * 3 * len(REGIONS) * len(WHAT)
    for share in shares:
        hits, tokens = slowly(readings, truths, share)
        assert (share.tokens, share.share) == (tokens, pytest.approx(hits / tokens if tokens else 0.0))
        assert 0 <= share.low <= share.high <= 1
    assert any(0 < share.share < 1 for share in shares)


def test_images_without_truth_are_left_out() -> None:
    readings = Readings.join([synthetic.readings("a"), synthetic.readings("b")])
    truths = {"a": truth("a", 4, 6, 0)}
    alone = name_shares(synthetic.readings("a"), truths)
    assert name_shares(readings, truths) == alone
    assert {(share.low, share.high) for share in alone} == {(0.0, 1.0)}  # one image says nothing of the spread


def test_the_interval_narrows_with_images() -> None:
    def width(count: int) -> float:
        names = [f"scene {number}" for number in range(count)]
        readings = Readings.join([synthetic.readings(name, lenses=("latent",), layers=(0,)) for name in names])
        shares = name_shares(readings, {name: truth(name, 4, 6, seed) for seed, name in enumerate(names)})
        share = next(s for s in shares if s.region == "all" and s.what == "there")
        return share.high - share.low

    assert width(32) < 0.6 * width(4)


def test_no_known_image_is_refused() -> None:
    with pytest.raises(OptionError, match="None of the images a has a known truth"):
        name_shares(synthetic.readings("a"), {"b": truth("b", 4, 6, 0)})


def test_another_grid_is_refused() -> None:
    with pytest.raises(OptionError, match="grid of 4 × 6, its truth one of 2 × 2"):
        name_shares(synthetic.readings("a"), {"a": truth("a", 2, 2, 0)})


def test_prints_its_interval_or_that_nothing_was_asked() -> None:
    assert str(Share("latent", 4, "object", "there", 200, 0.9, 0.85, 0.95)) == "90.0% [85.0%, 95.0%]"
    assert str(Share("latent", 4, "background", "thing", 0, 0.0, 0.0, 1.0)) == "–"
