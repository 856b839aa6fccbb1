from pathlib import Path

import pytest

from patchlens.cli.demo import telling_patches
from patchlens.evaluation.naming import name_shares
from patchlens.evaluation.truth import PatchTruth, SceneTruth, open_truth
from patchlens.lenses.reading import open_readings
from patchlens.models.embedded import Embedded


def test_the_demo_tells_what_it_did(run, storybook: Embedded, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    ended = run("demo", "--out", out)
    assert ended.status == 0, ended.err
    for part in ("1, 1 shows: red house", "3, 1 shows: a sign that says “bread”", "LatentLens", "EmbeddingLens"):
        assert part in ended.out
    assert f"Page      {out / 'page.html'}\n" in ended.out
    assert (out / "page.html").is_file()
    paths = [line for line in ended.out.splitlines() if str(tmp_path) not in line]
    assert max(map(len, paths)) <= 80
    assert list((tmp_path / "home" / "banks").iterdir())


def test_the_demo_as_json(run, storybook: Embedded, tmp_path: Path) -> None:
    told = run("demo", "--json", "--out", tmp_path / "demo").json
    assert set(told) == {"page", "readings", "bank", "seconds", "shares"}
    assert told["seconds"] > 0
    readings = open_readings(told["readings"])
    assert list(readings.images) == ["house", "sign"]
    assert readings.lenses == ("latent", "logit", "embedding")
    assert storybook.examples is not None
    truths = {name: open_truth(storybook.examples / f"{name}.json") for name in readings.images}
    for share in name_shares(readings, truths):
        if (share.what, share.region) == ("scene", "all"):
            assert told["shares"][share.lens].pop(str(share.layer)) == pytest.approx(share.share, abs=1e-6)
    assert told["shares"] == {"latent": {}, "logit": {}, "embedding": {}}


def test_a_second_run_replaces_the_first_and_reuses_its_bank(run, storybook: Embedded, tmp_path: Path) -> None:
    words = ("demo", "--json", "--out", tmp_path / "demo", "--model", "storybook")
    first = run(*words)
    again = run(*words)
    assert "Choosing contexts" in first.err
    assert "Choosing contexts" not in again.err
    assert {**first.json, "seconds": 0} == {**again.json, "seconds": 0}


def test_it_never_replaces_what_is_not_its_own(run, storybook: Embedded, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    ended = run("demo", "--out", tmp_path / "mine")
    assert (ended.status, ended.out) == (2, "")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_a_model_without_pictures(run, storybook: Embedded, tmp_path: Path) -> None:
    ended = run("demo", "--out", tmp_path / "demo", "--model", "storybooks")
    assert ended.status == 2
    assert "'storybooks'" in ended.err
    assert "Known: storybook." in ended.err


def test_nothing_embedded_at_all(run, monkeypatch: pytest.MonkeyPatch) -> None:
    from patchlens.models import embedded

    monkeypatch.setattr(embedded, "entry_points", lambda **wanted: [])
    ended = run("demo")
    assert ended.status == 2
    assert "none is installed" in ended.err


def test_patches_are_chosen_by_truth_alone() -> None:
    nothing, cat = PatchTruth(False), PatchTruth(True, thing=frozenset({"cat"}))
    small, sign = PatchTruth(True, thing=frozenset({"ant"})), PatchTruth(True, frozenset({"sign"}), word=frozenset("a"))
    truth = SceneTruth("x", 3, 3, (cat, cat, cat, small, nothing, sign, nothing, nothing, nothing))
    assert telling_patches(truth) == [(0, 1, cat), (1, 2, sign)]
    assert telling_patches(SceneTruth("x", 1, 2, (nothing, nothing))) == []
