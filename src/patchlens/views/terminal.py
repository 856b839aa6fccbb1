"""A few readings as a table for the terminal: patches and layers down, lenses across."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from patchlens.errors import OptionError
from patchlens.lenses.reading import Readings
from patchlens.lenses.summary import LENS_TITLES, Place, excerpt, line, printable

__all__ = ["table"]

_STYLES = {"latent": "cyan", "logit": "yellow", "embedding": "magenta"}


def table(
    readings: Readings,
    *,
    image: str | None = None,
    patches: Sequence[tuple[int, int]] | None = None,
    layers: int | Iterable[int] | None = None,
    words: int = 3,
) -> RenderableType:
    """Draw the best words of a few patches at a few layers; one line each, readable at 80 columns.

    Args:
        readings: What to draw from.
        image: One image; None for the first three.
        patches: (row, column) of the patches; None for a few that say something.
        layers: Layers; None for a few, spread evenly.
        words: Words per lens and line.

    Raises:
        OptionError: An image, layer or patch that was not read.
    """
    if not len(readings):
        return Text(repr(readings))
    images = [image] if image is not None else list(readings.images)[:3]
    drawn: list[RenderableType] = []
    for name in images:
        part = readings.select(image=name, layer=layers) if layers is not None else readings.select(image=name)
        drawn.append(_one_image(part, name, patches, layers is None, words))
    if more := len(readings.images) - len(images):
        drawn.append(Text(f"and {more} more {'image' if more == 1 else 'images'}", style="dim"))
    return Group(*drawn)


def _one_image(
    part: Readings, image: str, patches: Sequence[tuple[int, int]] | None, few_layers: bool, words: int
) -> Table:
    places, layers = excerpt(part, image=image)
    layers = layers if few_layers else part.layers
    if patches is not None:
        places = [_place(part, image, row, column) for row, column in patches]
    lenses = part.lenses
    said = {
        (reading.position, reading.layer, reading.lens): reading
        for reading in part.select(position=[place.position for place in places], layer=layers)
    }
    drawing = Table(title=Text(printable(image)), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    drawing.expand = True
    drawing.add_column(_heading(part, image), no_wrap=True, min_width=8)
    drawing.add_column("layer", justify="right", no_wrap=True, min_width=5)
    for lens in lenses:
        drawing.add_column(
            LENS_TITLES.get(lens, lens), style=_STYLES.get(lens), ratio=1, no_wrap=True, overflow="ellipsis"
        )
    for place in places:
        for number, layer in enumerate(layers):
            label = place.label.removeprefix("position ") if number == 0 else ""
            cells = [Text(line(said.get((place.position, layer, lens)), words)) for lens in lenses]
            drawing.add_row(label, str(layer), *cells, end_section=number == len(layers) - 1)
    return drawing


def _heading(part: Readings, image: str) -> str:
    tiles = part.tiles.get(image, ())
    if len(tiles) > 1:
        return "tile: row, col"
    if tiles:
        return "row, col"
    return "time" if part.table["start"].null_count < part.table.num_rows else "position"


def _place(part: Readings, image: str, row: int, column: int) -> Place:
    found = part.select(row=row, column=column)
    if not len(found):
        tiles = part.tiles.get(image, ())
        extent = (
            f"its grid is {tiles[0].grid.rows} × {tiles[0].grid.columns}, counted from 0" if tiles else "it has none"
        )
        raise OptionError(f"Nothing was read at row {row}, column {column} of {image!r}: {extent}.")
    return Place(image, next(iter(found)).position, row, column)
