import sys

import pytest
import torch

from patchlens.errors import MissingExtra, OptionError
from patchlens.search.approximate import ApproximateIndex
from patchlens.search.exact import ExactIndex
from patchlens.search.rows import MemoryRows

pytest.importorskip("faiss")


@pytest.fixture(scope="module")
def rows() -> MemoryRows:
    """Rows around 40 centres, at two layers."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(40, 64, generator=generator)
    layers = [centres.repeat(50, 1) + 0.7 * torch.randn(2000, 64, generator=generator) for _ in range(2)]
    return MemoryRows((1, 5), layers)


@pytest.mark.parametrize("kind", [None, "Flat", "HNSW16,SQ8"])
def test_what_is_reported_is_true(rows: MemoryRows, kind: str | None) -> None:
    queries = torch.cat([rows.vectors(layer)[::97] + 0.3 for layer in rows.layers])
    index = ApproximateIndex(rows, kind=kind, candidates=100)
    found, truth = index.search(queries, 5), ExactIndex(rows).search(queries, 5)
    assert found.recall is not None
    assert found.recall == index.recall[5] > 0.9
    assert f"recall {found.recall:.3f}" in repr(found)
    assert torch.all(found.similarities <= truth.similarities)
    everything = ExactIndex(rows).search(queries, len(index))
    for query in range(len(queries)):
        known = {
            (layer, row): similarity
            for layer, row, similarity in zip(
                *(part[query].tolist() for part in (everything.layers, everything.rows, everything.similarities)),
                strict=True,
            )
        }
        mine = [part[query].tolist() for part in (found.layers, found.rows, found.similarities)]
        assert all(known[layer, row] == similarity for layer, row, similarity in zip(*mine, strict=True))
        assert mine[2] == sorted(mine[2], reverse=True)


def test_recall_is_what_was_found(rows: MemoryRows) -> None:
    queries = torch.randn(30, 64, generator=torch.Generator().manual_seed(1))
    few = ApproximateIndex(rows, candidates=5, probes=1)
    measured = few.measure_recall(queries, 5)
    found, truth = few.search(queries, 5), ExactIndex(rows).search(queries, 5)
    hits = sum(
        len({*zip(*mine, strict=True)} & {*zip(*theirs, strict=True)})
        for mine, theirs in zip(
            zip(found.layers.tolist(), found.rows.tolist(), strict=True),
            zip(truth.layers.tolist(), truth.rows.tolist(), strict=True),
            strict=True,
        )
    )
    assert measured == pytest.approx(hits / 150)
    assert measured < 1, "one list and five candidates miss some"
    assert ApproximateIndex(rows, kind="Flat", candidates=50).measure_recall(queries, 5) == 1


def test_options_that_cannot_be(rows: MemoryRows) -> None:
    with pytest.raises(OptionError, match="0 candidates: choose from 1 to 4,000"):
        ApproximateIndex(rows, candidates=0)
    with pytest.raises(OptionError, match="'Magic9': faiss does not know it"):
        ApproximateIndex(rows, kind="Magic9")
    with pytest.raises(OptionError, match="51 rows among 50 candidates"):
        ApproximateIndex(rows, kind="Flat", candidates=50).search(torch.randn(1, 64), 51)


def test_without_the_extra(rows: MemoryRows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtra, match=r"pip install 'patchlens\[faiss\]'"):
        ApproximateIndex(rows)
