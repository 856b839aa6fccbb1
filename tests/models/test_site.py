import numpy as np
import pytest

from patchlens.errors import OptionError
from patchlens.models.site import Site, layers_among, resolve_layers


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("all", (0, 1, 2, 3, 4, 5, 6)),
        (3, (3,)),
        (0, (0,)),
        (-1, (6,)),
        (-7, (0,)),
        ([4, 1, 4], (1, 4)),
        (np.array([2, 0]), (0, 2)),
        (range(2, 5), (2, 3, 4)),
        ("0, 4,5-6", (0, 4, 5, 6)),
        ("-1", (6,)),
        ("-3--1", (4, 5, 6)),
        ("4--1", (4, 5, 6)),
        ("2,", (2,)),
    ],
)
def test_ways_to_say_layers(layers: object, expected: tuple[int, ...]) -> None:
    assert resolve_layers(layers, 6) == expected


@pytest.mark.parametrize("layers", [7, -8, [0, 7], "7", "5-9", "0-999999999999", [99]])
def test_layers_that_do_not_exist_name_those_that_do(layers: object) -> None:
    with pytest.raises(OptionError, match=r"does not exist.* 6 blocks.* 0 .* to 6"):
        resolve_layers(layers, 6)


@pytest.mark.parametrize("layers", ["first", "1.5", "3-1", "1;2", 1.5, [1.5], ["1"], None, True, [True], object()])
def test_what_is_no_layer(layers: object) -> None:
    with pytest.raises(OptionError, match="Cannot read"):
        resolve_layers(layers, 6)


@pytest.mark.parametrize("layers", ["", " , ", [], ()])
def test_nothing_asked_for(layers: object) -> None:
    with pytest.raises(OptionError, match="No layers"):
        resolve_layers(layers, 6)


def test_sites_sort_by_layer() -> None:
    assert sorted([Site(3), Site(1)]) == [Site(1), Site(3)]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [("all", (1, 4, 8)), (4, (4,)), ([8, 1], (1, 8)), (np.array([4]), (4,)), ("1,8", (1, 8)), (-1, (8,))],
)
def test_layers_of_what_holds_some(layers: object, expected: tuple[int, ...]) -> None:
    assert layers_among(layers, (1, 4, 8), "the bank") == expected


@pytest.mark.parametrize("layers", [2, "1-4", 9, [], "", "first", None, [1, 2]])
def test_layers_that_it_lacks(layers: object) -> None:
    with pytest.raises(OptionError, match=r"layers of the bank: .* not among those that it holds, 1, 4, 8\. Name"):
        layers_among(layers, (1, 4, 8), "the bank")
