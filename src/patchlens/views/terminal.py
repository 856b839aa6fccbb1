"""A few readings as a table for the terminal: patches and layers down, lenses across."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TypeAlias

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from patchlens.errors import OptionError
from patchlens.lenses.reading import Readings
from patchlens.lenses.summary import LENS_TITLES, Place, excerpt, heading, line, printable
from patchlens.models.tile import Tile

__all__ = ["table"]

Patch: TypeAlias = tuple[int, int] | tuple[int, int, int]

_STYLES = {"latent": "cyan", "logit": "yellow", "embedding": "magenta"}


def table(
    readings: Readings,
    *,
    image: str | None = None,
    patches: Sequence[Patch] | None = None,
    layers: int | Iterable[int] | None = None,
    words: int = 3,
) -> RenderableType:
    """Draw the best words of a few patches at a few layers; one line each, readable at 80 columns.

    Args:
        readings: What to draw from.
        image: One image; None for the first three of those that were read at the layers.
        patches: (row, column) of the patches, or (tile, row, column) for an image in several tiles; None for a few that
            say something.
        layers: Layers; None for a few, spread evenly.
        words: Words per lens and line.

    Raises:
        OptionError: An image, layer or patch that was not read, or a (row, column) that several tiles have.
    """
    if not len(readings):
        return Text(repr(readings))
    wanted = readings if image is None else readings.select(image=image)
    part = wanted if layers is None else wanted.select(layer=list(layers) if isinstance(layers, Iterable) else layers)
    images = list(part.images)[:3]
    drawn: list[RenderableType] = [
        _one_image(part.select(image=name), name, patches, layers is None, words) for name in images
    ]
    elsewhere = len(wanted.images) - len(part.images)
    if more := len(readings.images) - len(images) - elsewhere:
        drawn.append(Text(f"and {more} more {_images(more)}", style="dim"))
    if elsewhere:
        drawn.append(Text(f"and {elsewhere} {_images(elsewhere)} read at other layers", style="dim"))
    return Group(*drawn)


def _images(count: int) -> str:
    return "image" if count == 1 else "images"


def _one_image(part: Readings, image: str, patches: Sequence[Patch] | None, few_layers: bool, words: int) -> Table:
    places, layers = excerpt(part, image=image)
    layers = layers if few_layers else part.layers
    if patches is not None:
        places = [_place(part, image, patch) for patch in patches]
    lenses = part.lenses
    said = {
        (reading.position, reading.layer, reading.lens): reading
        for reading in part.select(position=[place.position for place in places], layer=layers)
    }
    drawing = Table(title=Text(printable(image)), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    drawing.expand = True
    above = heading(part, image)
    drawing.add_column(above, no_wrap=True, min_width=8)
    drawing.add_column("layer", justify="right", no_wrap=True, min_width=5)
    for lens in lenses:
        drawing.add_column(
            LENS_TITLES.get(lens, lens), style=_STYLES.get(lens), ratio=1, no_wrap=True, overflow="ellipsis"
        )
    for place in places:
        for number, layer in enumerate(layers):
            label = place.label.removeprefix(f"{above} ") if number == 0 else ""
            cells = [Text(line(said.get((place.position, layer, lens)), words)) for lens in lenses]
            drawing.add_row(label, str(layer), *cells, end_section=number == len(layers) - 1)
    return drawing


def _place(part: Readings, image: str, patch: Patch) -> Place:
    row, column = patch[-2:]
    named = patch[0] if len(patch) == 3 else None
    found = part.select(row=row, column=column, tile=named)
    where = f"row {row}, column {column} of {image!r}"
    if not len(found):
        among = where if named is None else f"tile {named}, {where}"
        raise OptionError(f"Nothing was read at {among}: {_extent(part.tiles.get(image, ()))}.")
    having = found.table["tile"].unique().to_pylist()
    if len(having) > 1:
        raise OptionError(
            f"Tiles {', '.join(map(str, having))} all have a patch at {where}: {_extent(part.tiles[image])}. "
            "Give (tile, row, column)."
        )
    several = len(part.tiles.get(image, ())) > 1
    return Place(image, next(iter(found)).position, row, column, having[0] if several else None)


def _extent(tiles: Sequence[Tile]) -> str:
    if not tiles:
        return "it has no grid"
    shapes = [f"{tile.grid.rows} × {tile.grid.columns}" for tile in tiles]
    if len(shapes) == 1:
        return f"its grid is {shapes[0]}, counted from 0"
    runs = [(shape, list(run)) for shape, run in groupby(range(len(shapes)), shapes.__getitem__)]
    named = (f"{run[0]} to {run[-1]} ({shape})" if len(run) > 1 else f"{run[0]} ({shape})" for shape, run in runs)
    return f"it has the tiles {', '.join(named)}, counted from 0"
