from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from patchlens.errors import OptionError
from patchlens.picturebook.loop import Recipe, train

RECIPE = Recipe("part", steps=8, matrix_rate=1e-2, other_rate=1e-2, warmup=2)


class Small(nn.Module):
    """A matrix inside the blocks, which Muon trains, and a bias outside, which AdamW does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(4, 4, bias=False)])
        self.bias = nn.Parameter(torch.zeros(4))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        return (self.layers[0](x) + self.bias - x.flip(1)).square().mean(), {}


def quiet(line: str) -> None:
    """No log."""


def test_it_learns(tmp_path: Path) -> None:
    small = Small()
    before = small.loss(99)[0].item()
    train(Recipe("part", 200, 1e-2, 1e-2, warmup=5), small, small.loss, tmp_path, quiet)
    assert small.loss(99)[0].item() < 0.5 * before


def test_stopped_and_gone_on_ends_in_the_same_weights(tmp_path: Path) -> None:
    whole = Small()
    train(RECIPE, whole, whole.loss, tmp_path / "whole", quiet)

    stopped = Small()

    def until_five(step: int) -> tuple[Tensor, dict[str, float]]:
        if step == 5:
            raise KeyboardInterrupt
        return stopped.loss(step)

    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, stopped, until_five, tmp_path / "stopped", quiet, checkpoint_seconds=0.0)
    resumed, asked = Small(), []

    def from_where(step: int) -> tuple[Tensor, dict[str, float]]:
        asked.append(step)
        return resumed.loss(step)

    train(RECIPE, resumed, from_where, tmp_path / "stopped", quiet)
    assert asked == [5, 6, 7]
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_a_finished_part_is_not_trained_again(tmp_path: Path) -> None:
    small = Small()
    train(RECIPE, small, small.loss, tmp_path, quiet)
    again = Small()

    def never(step: int) -> tuple[Tensor, dict[str, float]]:
        raise AssertionError(step)

    train(RECIPE, again, never, tmp_path, quiet)
    assert torch.equal(again.bias, small.bias)


def test_the_rate_rises_stays_and_falls() -> None:
    recipe = Recipe("part", steps=100, matrix_rate=1.0, other_rate=1.0, warmup=10, decay=0.5)
    assert recipe.scale(0) == pytest.approx(0.1)
    assert recipe.scale(30) == 1
    assert recipe.scale(75) == pytest.approx(0.5)
    assert recipe.scale(99) == pytest.approx(0.02)


def test_a_checkpoint_of_another_seed_or_recipe_is_refused(tmp_path: Path) -> None:
    small = Small()
    train(RECIPE, small, small.loss, tmp_path, quiet, seed=0)
    with pytest.raises(OptionError, match="trained with seed 0, this run asks for 1"):
        train(RECIPE, small, small.loss, tmp_path, quiet, seed=1)
    with pytest.raises(OptionError, match="trained with steps 8, this run asks for 9"):
        train(replace(RECIPE, steps=9), small, small.loss, tmp_path, quiet, seed=0)
