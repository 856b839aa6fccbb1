import torch

from patchlens.search.matches import Matches


def test_a_short_description() -> None:
    matches = Matches(torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.long), torch.full((2, 3), 0.5))
    assert len(matches) == 2
    assert repr(matches) == "Matches(2 queries × 3, best 0.500)"
    nothing = Matches(torch.zeros(0, 3, dtype=torch.long), torch.zeros(0, 3, dtype=torch.long), torch.zeros(0, 3))
    assert repr(nothing) == "Matches(0 queries × 3)"
