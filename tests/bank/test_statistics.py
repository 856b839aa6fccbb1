import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import SENTENCES
from patchlens.bank import statistics
from patchlens.bank.bank import Bank, open_bank
from patchlens.bank.build import build_bank
from patchlens.errors import NonFiniteStates, OptionError, StorageError
from patchlens.models.model import Model
from patchlens.search.rows import MemoryRows


@pytest.fixture(scope="module")
def built(tiny_causal: Model, tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return build_bank(tiny_causal, SENTENCES, tmp_path_factory.mktemp("banks") / "tiny")


def test_means_and_deviations() -> None:
    torch.manual_seed(0)
    rows = MemoryRows((4, 2), [torch.randn(1000, 6) * 3 + 50 for _ in range(2)])  # squares would cancel
    found = statistics.measure(rows)
    assert (found.rows, list(found.layers)) == (1000, [2, 4])
    for layer, about in found.layers.items():
        units = torch.nn.functional.normalize(rows.vectors(layer).double(), dim=1).numpy()
        np.testing.assert_allclose(about.mean, units.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(about.std, units.std(axis=0), rtol=1e-9)
        assert about.mean_cosine == pytest.approx(float((units @ units.T).mean()), rel=1e-9)
        assert float(about.shares.sum()) == pytest.approx(1)


def test_parts_that_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    rows = torch.randn(90, 5) + 1
    whole = statistics.measure(MemoryRows((1,), [rows]))
    monkeypatch.setattr(statistics, "_BLOCK_BYTES", 8 * 5 * 7)
    parts = [statistics.measure(MemoryRows((1,), [part])) for part in (rows[:20], rows[20:])]
    joined = statistics.Statistics.joined(parts)
    assert joined.rows == 90
    torch.testing.assert_close(joined.layers[1].mean, whole.layers[1].mean)
    torch.testing.assert_close(joined.layers[1].std, whole.layers[1].std)


def test_rows_that_cannot_be_measured() -> None:
    with pytest.raises(OptionError, match="there are none"):
        statistics.measure(MemoryRows((1,), [torch.zeros(0, 3)]))
    rows = torch.ones(5, 3)
    rows[3, 1] = torch.nan
    with pytest.raises(NonFiniteStates, match="layer 1: row 3 holds NaN"):
        statistics.measure(MemoryRows((1,), [rows]))


def test_kept_beside_the_bank(built: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(built.folder, tmp_path / "bank"))
    first = open_bank(folder).statistics()
    assert (folder / statistics.FILE).is_file()
    open_bank(folder).verify()
    monkeypatch.setattr(statistics, "measure", lambda *_: pytest.fail("measured again"))
    again = open_bank(folder).statistics()
    assert list(again.layers) == list(built.layers)
    for layer, about in again.layers.items():
        assert torch.equal(about.mean, first.layers[layer].mean)
        assert torch.equal(about.std, first.layers[layer].std)


@pytest.mark.parametrize("fault", ["cut", "empty", "other rows"])
def test_measured_again_when_what_is_there_is_no_use(built: Bank, tmp_path: Path, fault: str) -> None:
    folder = Path(shutil.copytree(built.folder, tmp_path / "bank"))
    first = open_bank(folder).statistics()
    path = folder / statistics.FILE
    if fault == "other rows":
        statistics.store(first, folder, "another bank")
    else:
        os.truncate(path, 0 if fault == "empty" else path.stat().st_size - 8)
    again = open_bank(folder).statistics()
    assert all(torch.equal(again.layers[layer].mean, about.mean) for layer, about in first.layers.items())
    assert statistics.load(folder, str(built.manifest.to_json()["sha256"])) is not None, "and stored again"


def test_a_folder_that_may_not_be_written_to(built: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(built.folder, tmp_path / "bank"))

    def refuse(*_: object) -> None:
        raise StorageError("read-only")

    monkeypatch.setattr(statistics, "store", refuse)
    assert open_bank(folder).statistics().rows == len(built)
    assert not (folder / statistics.FILE).exists()
