import json
from pathlib import Path

import pytest

from patchlens.errors import InputError
from patchlens.evaluation.truth import PatchTruth, SceneTruth, open_truth

CAT = PatchTruth(True, thing=frozenset({"cat", "cats"}), color=frozenset({"black"}), kind=frozenset({"animal"}))
GRASS = PatchTruth(False, place=frozenset({"park"}), elsewhere=frozenset({"cat"}))


def test_saved_and_opened_is_the_same(tmp_path: Path) -> None:
    truth = SceneTruth("scene", 2, 2, (CAT, GRASS, GRASS, CAT))
    truth.save(tmp_path / "truth.json")
    assert open_truth(tmp_path / "truth.json") == truth
    assert truth.at(1, 0) == GRASS
    assert len(json.loads((tmp_path / "truth.json").read_text())["distinct"]) == 2


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1, "image": "a", "rows": 1}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "truth.json").write_text(text)
    with pytest.raises(InputError, match="does not hold the truth"):
        open_truth(tmp_path / "truth.json")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not hold the truth"):
        open_truth(tmp_path / "none.json")


def test_patches_must_fill_the_grid(tmp_path: Path) -> None:
    SceneTruth("scene", 3, 2, (CAT, GRASS)).save(tmp_path / "truth.json")
    with pytest.raises(InputError, match="2 patches but of a grid of 3 × 2"):
        open_truth(tmp_path / "truth.json")
