import pytest
import torch
from torch import Tensor, nn

from patchlens.models.hooks import observe


class _Block(nn.Module):
    def __init__(self, factor: float, as_tuple: bool) -> None:
        super().__init__()
        self.factor, self.as_tuple, self.calls = factor, as_tuple, 0

    def forward(self, hidden_states: Tensor) -> Tensor | tuple[Tensor, None]:
        self.calls += 1
        out = hidden_states * self.factor
        return (out, None) if self.as_tuple else out


@pytest.fixture(params=["tensor", "tuple"])
def blocks(request: pytest.FixtureRequest) -> list[_Block]:
    return [_Block(factor, request.param == "tuple") for factor in (2.0, 3.0, 5.0)]


@pytest.fixture(params=["positional", "keyword"])
def run(request: pytest.FixtureRequest, blocks: list[_Block]):
    def forward(state: Tensor) -> Tensor:
        for block in blocks:
            out = block(state) if request.param == "positional" else block(hidden_states=state)
            state = out[0] if isinstance(out, tuple) else out
        return state

    return forward


def _hooks(blocks: list[_Block]) -> int:
    return sum(len(block._forward_hooks) + len(block._forward_pre_hooks) for block in blocks)


ONES = torch.ones(1, 2, 4)


def test_layer_0_is_what_enters_and_layer_i_what_block_i_gives(blocks, run) -> None:
    seen: dict[int, float] = {}
    with observe(blocks, [0, 1, 2, 3], lambda layer, state: seen.update({layer: state[0, 0, 0].item()})):
        assert _hooks(blocks) == 6  # what leaves each block, and what enters each
        result = run(ONES)
    assert seen == {0: 1, 1: 2, 2: 6, 3: 30}
    assert result[0, 0, 0] == 30
    assert _hooks(blocks) == 0


@pytest.mark.parametrize(
    ("layers", "calls"), [([0], [0, 0, 0]), ([1], [1, 0, 0]), ([2, 0], [1, 1, 0]), ([3], [1, 1, 1])]
)
def test_stopping_skips_the_blocks_above(blocks, run, layers: list[int], calls: list[int]) -> None:
    seen = []
    with observe(blocks, layers, lambda layer, _: seen.append(layer), then_stop=True):
        run(ONES)
    assert seen == sorted(layers)
    assert [block.calls for block in blocks] == calls
    assert _hooks(blocks) == 0


def test_no_hook_outlives_an_exception(blocks, run) -> None:
    def refuse(layer: int, state: Tensor) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), observe(blocks, [0, 2], refuse):
        run(ONES)
    assert _hooks(blocks) == 0

    with pytest.raises(ZeroDivisionError), observe(blocks, [0, 2], lambda *_: None):
        raise ZeroDivisionError
    assert _hooks(blocks) == 0


def test_no_hook_stays_when_one_cannot_be_placed(blocks) -> None:
    with pytest.raises(IndexError), observe(blocks, [0, 9], lambda *_: None):
        pass
    assert _hooks(blocks) == 0


def test_a_skipped_block_gives_what_the_next_one_gets(blocks, run) -> None:
    seen: list[tuple[int, float]] = []
    with observe(blocks, [0, 1, 2, 3], lambda layer, state: seen.append((layer, state[0, 0, 0].item()))):
        blocks[2](blocks[0](ONES)) if not blocks[0].as_tuple else blocks[2](blocks[0](ONES)[0])
        run(ONES)
    assert seen == [(0, 1), (1, 2), (2, 2), (3, 10), (0, 1), (1, 2), (2, 6), (3, 30)]
