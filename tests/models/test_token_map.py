import pytest
import torch

from patchlens.errors import OptionError
from patchlens.models.patch_grid import PatchGrid
from patchlens.models.tile import KINDS, Tile
from patchlens.models.token_map import TokenMap

WHOLE = (0.0, 0.0, 20.0, 40.0)


def test_cells_with_and_without_fillers() -> None:
    grid = PatchGrid(2, 3, (20, 40), WHOLE)
    assert Tile(grid).cells() == [0, 1, 2, 3, 4, 5]
    assert Tile(grid, after_row=1, after=2).cells() == [0, 1, 2, -1, 3, 4, 5, -1, -1, -1]
    for tile in (Tile(grid), Tile(grid, "frame", place=(1, 2), time=(0.5, 1.0), after_row=1, after=2)):
        assert len(tile) == len(tile.cells())
        assert Tile.from_json(tile.to_json()) == tile


@pytest.mark.parametrize("fields", [{}, {"grid": 3}, {"grid": {"rows": 1}}, {"place": [1]}])
def test_tiles_that_cannot_be_read(fields: dict[str, object]) -> None:
    grid = PatchGrid(1, 1, (20, 40), WHOLE).to_json()
    with pytest.raises(OptionError):
        Tile.from_json({"grid": grid, **fields} if "place" in fields else fields)
    with pytest.raises(OptionError, match="role 'corner'"):
        Tile(PatchGrid(1, 1, (20, 40), WHOLE), "corner")


def _map() -> TokenMap:
    """Text, two patches of a 1 × 2 tile with a filler, and the thumbnail's one."""
    layout = (
        (
            Tile(PatchGrid(1, 2, (20, 40), WHOLE), "tile", after_row=1),
            Tile(PatchGrid(1, 1, (20, 40), WHOLE), "thumbnail"),
        ),
    )
    kinds = [KINDS.index(kind) for kind in ("text", "patch", "patch", "filler", "patch", "text")]
    columns = ([-1, 0, 0, 0, 0, -1], [-1, 0, 0, -1, 1, -1], [-1, 0, 1, -1, 0, -1])
    return TokenMap(torch.tensor(kinds), *map(torch.tensor, columns), torch.full((6, 2), torch.nan), layout)


def test_places_and_boxes() -> None:
    tokens = _map()
    rows, columns = tokens.places()
    assert (rows.tolist(), columns.tolist()) == ([-1, 0, 0, -1, 0, -1], [-1, 0, 1, -1, 0, -1])
    assert tokens.box(2) == (0.0, 20.0, 20.0, 40.0)
    assert tokens.box(4) == WHOLE
    assert tokens.visual.tolist() == [False, True, True, False, True, False]
    assert tokens.take(tokens.visual).box(1) == (0.0, 20.0, 20.0, 40.0)
    with pytest.raises(OptionError, match="kind 'filler'"):
        tokens.box(3)


def test_an_answer_behind_it() -> None:
    tokens = _map().followed_by("answer", 2)
    assert len(tokens) == 8
    assert tokens.having("answer").tolist() == [False] * 6 + [True] * 2
    assert tokens.sources.tolist()[-2:] == [-1, -1]


def test_columns_come_back() -> None:
    tokens = _map()
    back = TokenMap.from_tensors(tokens.to_tensors(), tokens.layout)
    assert back.layout == tokens.layout
    assert all(
        torch.equal(value.nan_to_num(), tokens.to_tensors()[name].nan_to_num())
        for name, value in back.to_tensors().items()
    )


def test_no_column_of_a_text_shares_its_memory() -> None:
    columns = TokenMap.of_text(3).to_tensors()
    assert len({column.data_ptr() for column in columns.values()}) == len(columns)


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("sources", [-1, 0, 0, 0, 0, 1], "token 5 is of source 1.* there are 1"),
        ("sources", [-1.0, 0.0, 0.0, 0.0, 0.0, 0.5], "sources that are no whole numbers"),
        ("kinds", [True] * 6, "kinds that are no whole numbers"),
        ("cells", [-1, 0, 2, -1, 0, -1], "token 2 has no place"),
        ("tiles", [0, 0, 0, -1, 1, -1], "tiles without a patch"),
    ],
)
def test_columns_that_do_not_fit(name: str, values: list[float], told: str) -> None:
    tokens = _map()
    with pytest.raises(ValueError, match=told):
        TokenMap.from_tensors({**tokens.to_tensors(), name: torch.tensor(values)}, tokens.layout)
