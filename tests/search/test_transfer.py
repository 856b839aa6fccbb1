"""The logic of sending blocks to a GPU, on a machine that has none: what is sent, in which order, what is kept."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from patchlens.search.transfer import Transfer

CPU = torch.device("cpu")


class Stream:
    """Stands in for a CUDA stream: copies happen at once."""

    def __init__(self, *_: object) -> None: ...
    def record_event(self) -> str:
        return "event"

    def wait_event(self, event: str) -> None:
        assert event == "event"

    def synchronize(self) -> None: ...


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes free on the stand-in, of 1,000."""
    left = [1000]
    real = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, pin_memory=False, **named: real(*a, **named))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (left[0], 1000))
    monkeypatch.setattr(Tensor, "record_stream", lambda *_: None)
    return left


def blocks(dtype: torch.dtype = torch.int8) -> list[tuple[int, Tensor]]:
    rows = torch.arange(70).view(10, 7).to(dtype)
    return [(0, rows[:4]), (4, rows[4:8]), (8, rows[8:])]


@pytest.mark.parametrize("dtype", [torch.int8, torch.float16, torch.float32])
def test_all_blocks_arrive_as_they_are(free: list[int], dtype: torch.dtype) -> None:
    sent: list[Any] = [*Transfer(CPU)._sent(3, iter(blocks(dtype)))]
    assert [start for start, _ in sent] == [0, 4, 8]
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(sent, blocks(dtype), strict=True))


def test_one_block_ahead(free: list[int]) -> None:
    taken = []

    def source() -> Any:
        for start, block in blocks():
            taken.append(start)
            yield start, block

    arriving = Transfer(CPU)._sent(3, source())
    assert next(arriving)[0] == 0
    assert taken == [0, 4], "the next one is on its way"
    assert next(arriving)[0] == 4


def test_what_fits_stays(free: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    transfer = Transfer(CPU)
    first = [block for _, block in transfer._sent(3, blocks())]
    again = [block for _, block in transfer._sent(3, blocks())]
    assert all(one is other for one, other in zip(first, again, strict=True))
    other_layer = [block for _, block in transfer._sent(4, blocks())]
    assert not any(one is other for one, other in zip(first, other_layer, strict=True))
    free[0] = 300
    full = Transfer(CPU)
    first = [block for _, block in full._sent(3, blocks())]
    again = [block for _, block in full._sent(3, blocks())]
    assert not any(one is other for one, other in zip(first, again, strict=True))


def test_nothing_to_do_on_the_cpu() -> None:
    those = blocks()
    assert [block for _, block in Transfer(CPU).ahead(0, those)] == [block for _, block in those]
