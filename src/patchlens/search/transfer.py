"""Blocks on their way to the device: kept there while they fit, sent ahead through pinned memory when they do not."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["Transfer"]

_SHARE = 0.7  # of a GPU's memory, for rows that stay there and all else that is on it


class Transfer:
    """Brings blocks of rows to a device. On the CPU it has nothing to do."""

    def __init__(self, device: torch.device) -> None:
        """Nothing is moved yet."""
        self._device = device
        self._kept: dict[tuple[int, int, int], Tensor] = {}
        self._pinned: list[Tensor] = []

    def ahead(self, layer: int, blocks: Iterable[tuple[int, Tensor]]) -> Iterator[tuple[int, Tensor]]:
        """The blocks on the device, each sent while the one before is still in use."""
        return iter(blocks) if self._device.type == "cpu" else self._sent(layer, blocks)

    def _sent(self, layer: int, blocks: Iterable[tuple[int, Tensor]]) -> Iterator[tuple[int, Tensor]]:
        copies: Any = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        waiting: tuple[int, Tensor, Any] | None = None
        for number, (start, block) in enumerate(blocks):
            sent = start, *self._send(layer, start, block, number % 2, copies)
            if waiting is not None:
                yield self._arrived(waiting)
            waiting = sent
        if waiting is not None:
            yield self._arrived(waiting)

    def _send(self, layer: int, start: int, block: Tensor, turn: int, copies: Any) -> tuple[Tensor, Any]:
        key = layer, start, len(block)
        if key not in self._kept:
            staged = self._staged(block, turn, copies)
            with torch.cuda.stream(copies):
                moved = staged.to(self._device, non_blocking=True, copy=True)
            free, total = torch.cuda.mem_get_info(self._device)
            if free > (1 - _SHARE) * total:
                self._kept[key] = moved
        else:
            moved = self._kept[key]
        return moved, copies.record_event()

    def _staged(self, block: Tensor, turn: int, copies: Any) -> Tensor:
        """The block in one of two pinned buffers."""
        copies.synchronize()  # what was sent from this buffer has arrived
        if len(self._pinned) <= turn or self._pinned[turn].numel() < block.nbytes:
            self._pinned[turn:] = [torch.empty(block.nbytes, dtype=torch.uint8, pin_memory=True)]
        staged = self._pinned[turn][: block.nbytes]
        staged.copy_(block.contiguous().view(torch.uint8).flatten())
        return staged.view(block.dtype).view(block.shape)

    def _arrived(self, sent: tuple[int, Tensor, Any]) -> tuple[int, Tensor]:
        start, block, event = sent
        current = torch.cuda.current_stream(self._device)
        current.wait_event(event)
        block.record_stream(current)
        return start, block
