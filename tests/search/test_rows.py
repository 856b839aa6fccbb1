import pytest
import torch

from patchlens.bank.bank import Bank
from patchlens.errors import OptionError
from patchlens.search.rows import MemoryRows, RowSource


def test_rows_in_memory() -> None:
    tensors = [torch.randn(5, 3) for _ in range(2)]
    rows = MemoryRows((7, 2), tensors)
    assert (len(rows), rows.layers, rows.d_model) == (5, (7, 2), 3)
    assert rows.vectors(2) is tensors[1]
    assert [(start, len(block)) for start, block in rows.blocks(7, 2)] == [(0, 2), (2, 2), (4, 1)]
    assert torch.equal(torch.cat([block for _, block in rows.blocks(7, 2)]), tensors[0])
    with pytest.raises(OptionError, match="no rows of layer 3, only of 7, 2"):
        rows.vectors(3)


def test_rows_that_do_not_fit_their_layers() -> None:
    with pytest.raises(OptionError, match="one tensor for each layer"):
        MemoryRows((1, 2), [torch.zeros(2, 2)])
    with pytest.raises(OptionError, match="each layer once"):
        MemoryRows((1, 1), [torch.zeros(2, 2)] * 2)
    with pytest.raises(OptionError, match="one tensor for each layer"):
        MemoryRows((), [])
    with pytest.raises(OptionError, match=r"shapes \[\(2, 3\), \(4, 3\)\]"):
        MemoryRows((1, 2), [torch.zeros(2, 3), torch.zeros(4, 3)])


def test_both_are_sources() -> None:
    assert isinstance(MemoryRows((0,), [torch.eye(2)]), RowSource)
    assert all(hasattr(Bank, name) for name in ("layers", "d_model", "__len__", "vectors", "blocks"))
