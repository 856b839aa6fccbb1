"""Ways in which several families cut an image into tiles. Knows no processor."""

from patchlens.models.patch_grid import PatchGrid
from patchlens.models.token_map import Tile

__all__ = ["even_tiles", "tiles_and_thumbnail", "whole"]

_Region = tuple[float, float, float, float]


def whole(size: tuple[int, int]) -> _Region:
    """The region that is all of an image: (top, left, bottom, right) in its pixels."""
    return 0.0, 0.0, float(size[0]), float(size[1])


def even_tiles(
    size: tuple[int, int], region: _Region, tiles: tuple[int, int], cells: tuple[int, int]
) -> tuple[Tile, ...]:
    """Cut a region into equal tiles, row by row.

    Args:
        size: (height, width) of the original image.
        region: (top, left, bottom, right) that all tiles cover together, in pixels of the original.
        tiles: (rows, columns) of tiles.
        cells: (rows, columns) of visual tokens in each.

    Example:
        >>> [tile.place for tile in even_tiles((10, 20), (0.0, 0.0, 10.0, 20.0), (1, 2), (4, 4))]
        [(0, 0), (0, 1)]
    """
    top, left, bottom, right = region
    height, width = (bottom - top) / tiles[0], (right - left) / tiles[1]
    found = []
    for row in range(tiles[0]):
        for column in range(tiles[1]):
            begin, side = top + row * height, left + column * width
            grid = PatchGrid(*cells, size, (begin, side, begin + height, side + width))
            found.append(Tile(grid, "tile", place=(row, column)))
    return tuple(found)


def tiles_and_thumbnail(size: tuple[int, int], tiles: tuple[int, int], cells: tuple[int, int]) -> tuple[Tile, ...]:
    """Cut a whole image into equal tiles, row by row, with a thumbnail of it behind them; one tile is the whole itself.

    Args:
        size: (height, width) of the original image.
        tiles: (rows, columns) of tiles.
        cells: (rows, columns) of visual tokens in each, and in the thumbnail.

    Example:
        >>> [tile.role for tile in tiles_and_thumbnail((10, 20), (1, 2), (4, 4))]
        ['tile', 'tile', 'thumbnail']
        >>> [tile.role for tile in tiles_and_thumbnail((10, 20), (1, 1), (4, 4))]
        ['image']
    """
    everything = PatchGrid(*cells, size, whole(size))
    if tiles == (1, 1):
        return (Tile(everything),)
    return (*even_tiles(size, whole(size), tiles, cells), Tile(everything, "thumbnail"))
