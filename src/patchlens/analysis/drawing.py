"""How figures look, and how they are kept. The only file that knows matplotlib, which it loads when something is drawn.

A figure is made with `figure_of` under `style`; neither touches matplotlib's global state for longer than it draws.
"""

import io
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from patchlens.errors import MissingExtra
from patchlens.lenses.summary import LENS_TITLES
from patchlens.storage import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "KINDS",
    "Bars",
    "Line",
    "Look",
    "draw_bars",
    "draw_heat_map",
    "draw_level",
    "draw_lines",
    "draw_points",
    "draw_ridges",
    "draw_stacks",
    "figure_of",
    "footnote",
    "layer_axis",
    "lens_looks",
    "lens_title",
    "log_axis",
    "name_parts",
    "need_matplotlib",
    "percent_axis",
    "save_figure",
    "shades",
    "style",
    "svg_text",
]

Number: TypeAlias = int | float
Place: TypeAlias = tuple[int, int]
"""Row and column of a cell."""


@dataclass(frozen=True)
class Look:
    """How one series is drawn, in every figure alike."""

    color: str
    """"#rrggbb"."""
    marker: str
    """Matplotlib's sign for it, so that series can be told apart without color."""


@dataclass(frozen=True)
class Line:
    """One series of values with an interval each."""

    label: str
    """Stands at its end."""
    x: Sequence[Number]
    """Ascending."""
    y: Sequence[Number]
    """As many."""
    look: Look
    low: Sequence[Number | None] | None = None
    """Lower ends of the intervals; None where one is unknown, or in place of all."""
    high: Sequence[Number | None] | None = None
    """Upper ends."""
    dashed: bool = False
    """For what is a baseline."""


@dataclass(frozen=True)
class Bars:
    """One bar in each group, with an interval each."""

    label: str
    """Stands in the legend."""
    heights: Sequence[Number]
    """One per group."""
    look: Look
    low: Sequence[Number | None] | None = None
    """Lower ends of the intervals; None where one is unknown, or in place of all."""
    high: Sequence[Number | None] | None = None
    """Upper ends."""


# The lenses' colors and those of the first four others are from Okabe and Ito (2008), Color Universal Design, which
# people with any color vision tell apart; gray is for what is drawn at random. Markers differ wherever colors do.
_LENSES = {
    "latent": Look("#009e73", "o"),
    "embedding": Look("#0072b2", "s"),
    "logit": Look("#d55e00", "^"),
    "random": Look("#6f6f6f", "x"),
}
_OTHERS = (
    *(Look("#cc79a7", "D"), Look("#e69f00", "v"), Look("#56b4e9", "P"), Look("#000000", "*"), Look("#8c6bb1", "X")),
    *(Look("#7a4f1d", "<"), Look("#5f8f00", ">"), Look("#b00058", "p")),
)
KINDS = {"visual": Look("#009e73", "o"), "text": Look("#6f6f6f", "s")}
"""Looks of visual and of text tokens."""
_TITLES = {**LENS_TITLES, "random": "random rows"}

_INK = "#222222"
_PALE = "#e4e4e4"
_STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 8,
    "text.color": _INK,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 5,
    "axes.labelsize": 8,
    "axes.labelcolor": _INK,
    "axes.edgecolor": "#666666",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _PALE,
    "grid.linewidth": 0.6,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.color": "#666666",
    "ytick.color": "#666666",
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.6,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "svg.fonttype": "none",
    "svg.hashsalt": "patchlens",
}

_LINE_INCHES = 0.12  # a line of a label in 7.5 points, with the room around it


def need_matplotlib() -> None:
    """Make sure that figures can be drawn, before work is done for them.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            "Drawing a figure needs an extra: pip install 'patchlens[study]'. The numbers need none: they are in the "
            "finding's table."
        ) from error


@contextmanager
def style() -> Iterator[None]:
    """Our look for what is drawn inside, whatever a person's own settings are; they come back afterwards.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    need_matplotlib()
    from matplotlib import style as styles

    with styles.context(_STYLE, after_reset=True):
        yield


def lens_title(label: str) -> str:
    """A lens as people read it: "latent, 1 % of the bank" is "LatentLens, 1 % of the bank"."""
    name, comma, rest = label.partition(",")
    return _TITLES.get(name, name) + comma + rest


def lens_looks(labels: Sequence[str]) -> dict[str, Look]:
    """One look per lens: always the same for those that patchlens comes with, by order for others."""
    others = [label for label in labels if label not in _LENSES]
    return {
        label: _LENSES[label] if label in _LENSES else _OTHERS[others.index(label) % len(_OTHERS)] for label in labels
    }


def shades(count: int) -> list[Look]:
    """Looks for steps of one quantity, pale to dark."""
    need_matplotlib()
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    steps = [0.95 - 0.55 * (count - 1 - step) / max(1, count - 1) for step in range(count)]
    markers = "osD^vP*X"
    return [Look(to_hex(colormaps["Blues"](step)), markers[i % len(markers)]) for i, step in enumerate(steps)]


def figure_of(
    titles: Sequence[str],
    *,
    x: str,
    y: str,
    columns: int = 3,
    width: float = 3.3,
    height: float = 2.4,
    shared: bool = True,
) -> "tuple[Figure, list[Axes]]":
    """A figure of one panel for each title; to be called under `style`.

    Args:
        titles: What stands above each panel.
        x: What the horizontal axis shows, with its unit.
        y: What the vertical axis shows, with its unit.
        columns: Panels side by side, at most.
        width: Of a panel, in inches.
        height: Of a panel, in inches.
        shared: Whether panels have one vertical scale, which makes them comparable.
    """
    from matplotlib.figure import Figure

    across = min(columns, len(titles))
    down = -(-len(titles) // across)
    figure = Figure(figsize=(across * width, down * height), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharey=shared).flatten().tolist()
    for unused in grid[len(titles) :]:
        unused.remove()
    panels = grid[: len(titles)]
    for number, (axes, title) in enumerate(zip(panels, titles, strict=True)):
        axes.set_title(title)
        if number + across >= len(titles):
            axes.set_xlabel(x)
        if number % across == 0:
            axes.set_ylabel(y)
    return figure, panels


def footnote(figure: "Figure", text: str) -> None:
    """Say below the panels how the figure is read."""
    across = int(figure.get_figwidth() * 17)  # characters of 7 points
    figure.supxlabel("\n".join(wrap(text, across)), fontsize=7, x=0.01, ha="left", color="#444444")


def layer_axis(axes: "Axes", layers: Sequence[int]) -> None:
    """Mark the layers that there are, at their depth, and name those that have room for it."""
    layers = sorted(layers)
    reach = max(1, layers[-1] - layers[0])
    # A two-digit number takes so many inches of a panel, of which the names at line ends take some too.
    room = 0.27 / _figure(axes).get_figwidth() * _columns(axes) * reach
    named: list[int] = []
    for layer in (layers[-1], *layers[:-1]):  # the last layer's name is never crowded out
        if all(abs(layer - other) >= room for other in named):
            named.append(layer)
    axes.set_xticks(sorted(named), [str(layer) for layer in sorted(named)])
    axes.set_xticks(layers, minor=True)
    axes.set_xlim(layers[0] - 0.03 * reach, layers[-1] + 0.03 * reach)


def percent_axis(axes: "Axes", *, whole: bool = True) -> None:
    """Show shares in percent.

    Args:
        axes: Its vertical axis holds shares in [0, 1].
        whole: Show all from 0 to 100 %, else from 0 to a little above what is there.
    """
    from matplotlib.ticker import PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.set_ylim(0, 1 if whole else None)


def log_axis(axes: "Axes", which: Literal["x", "y"]) -> None:
    """Make an axis logarithmic, with plain numbers, and more of them where it spans less than two powers of ten.

    Args:
        axes: With limits that are set.
        which: The horizontal or the vertical one.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0,) if high >= 100 * low else (1.0, 2.0, 5.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def draw_lines(axes: "Axes", lines: Sequence[Line]) -> None:
    """Lines with markers, intervals as bands, and each label at its line's end, where none covers another.

    Args:
        axes: A panel whose scale is set, and its vertical limits if they are not to fit these lines: labels do not move
            with them afterwards.
        lines: An empty one is left out; one without a label stays unnamed.
    """
    # What is drawn without a point counts as standing at the figure's corner, and takes all the room from there.
    drawn = [line for line in lines if len(line.y)]
    for line in drawn:
        axes.plot(
            line.x,
            line.y,
            color=line.look.color,
            marker=line.look.marker,
            linestyle="--" if line.dashed else "-",
            clip_on=False,
        )
        if line.low is not None and line.high is not None:
            # A band over a single place has no width.
            known: list[tuple[float, float, float]] = [
                (x, low, high)
                for x, low, high in zip(line.x, line.low, line.high, strict=True)
                if low is not None and high is not None
            ]
            if len(known) == 1:
                axes.vlines(*known[0], color=line.look.color, linewidth=1.2, alpha=0.6)
            elif known:
                x, low, high = zip(*known, strict=True)
                axes.fill_between(x, low, high, color=line.look.color, alpha=0.16, linewidth=0)
    _name_ends(axes, drawn)


def draw_heat_map(
    axes: "Axes",
    values: Mapping[Place, Number],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    texts: Mapping[Place, str],
    most: Number | None = None,
    bold: Collection[Place] = (),
    framed: Collection[Place] = (),
) -> None:
    """Colored cells with their values printed in them, the first row at the bottom.

    Args:
        axes: An empty panel.
        values: By (row, column), none negative; what is missing stays white.
        rows: Names of the rows.
        columns: Names of the columns.
        texts: What is printed in a cell.
        most: The value of the darkest color; None for the largest there is.
        bold: Cells whose text stands out.
        framed: Cells with a frame.
    """
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    cells = [[values.get((row, column), float("nan")) for column in range(len(columns))] for row in range(len(rows))]
    top = most or max(values.values(), default=1.0) or 1.0
    palette = colormaps["Blues"]
    axes.pcolormesh(cells, cmap=palette, vmin=0, vmax=top / 0.9, edgecolors="white", linewidth=0.6)
    for place, value in values.items():
        axes.text(
            place[1] + 0.5,
            place[0] + 0.48,
            texts.get(place, ""),
            ha="center",
            va="center",
            fontsize=6.5,
            color=_on(palette(0.9 * value / top)),
            fontweight="bold" if place in bold else "normal",
        )
    for row, column in framed:
        axes.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor=_INK, linewidth=0.9))
    axes.set_xticks([number + 0.5 for number in range(len(columns))], columns)
    axes.set_yticks([number + 0.5 for number in range(len(rows))], rows)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)


def draw_ridges(
    axes: "Axes",
    edges: Sequence[Number],
    shares: Sequence[Sequence[Number]],
    *,
    names: Sequence[str],
    look: Look,
    most: Number | None = None,
) -> None:
    """Histograms one above the other on one scale, the first at the bottom.

    Args:
        axes: An empty panel.
        edges: Of the bins, ascending.
        shares: [histogram, bin].
        names: Of the histograms.
        look: Its color is taken.
        most: The share that is drawn highest; None for the largest there is.
    """
    highest = most or max((share for line in shares for share in line), default=0.0) or 1.0
    for number, line in enumerate(shares):
        heights = [number + 0.95 * share / highest for share in line]
        axes.fill_between(
            edges,
            [number] * len(edges),
            [*heights, heights[-1]],
            step="post",
            facecolor=look.color,
            linewidth=0,
        )
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="x")
    axes.spines["left"].set_visible(False)
    axes.set_ylim(-0.1, len(names))
    axes.set_xlim(edges[0], edges[-1])


def draw_bars(axes: "Axes", names: Sequence[str], series: Sequence[Bars]) -> None:
    """Groups of bars with intervals and a legend above.

    Args:
        axes: An empty panel.
        names: Of the groups.
        series: One bar per group each.
    """
    thick = 0.8 / len(series)
    for number, bars in enumerate(series):
        places = [group - 0.4 + (number + 0.5) * thick for group in range(len(names))]
        axes.bar(places, bars.heights, width=0.9 * thick, color=bars.look.color, label=bars.label)
        if bars.low is not None and bars.high is not None:
            for place, low, high in zip(places, bars.low, bars.high, strict=True):
                if low is not None and high is not None:
                    axes.plot([place, place], [low, high], color=_INK, linewidth=0.8, solid_capstyle="butt")
    axes.set_xticks(range(len(names)), names)
    axes.tick_params(axis="x", length=0)
    if len(series) > 1:
        _legend_above(axes, len(series))


def draw_stacks(axes: "Axes", names: Sequence[str], parts: Mapping[str, tuple[Sequence[Number], Look]]) -> None:
    """Bars of which each shows how a whole divides; the parts are named in a legend by `name_parts`.

    Args:
        axes: An empty panel.
        names: Of the bars.
        parts: Of each part its share of every bar, in [0, 1], and its color; the first at the bottom.
    """
    from matplotlib.colors import to_rgb

    base = [0.0] * len(names)
    for label, (heights, look) in parts.items():
        axes.bar(range(len(names)), heights, bottom=base, width=0.86, color=look.color, label=label)
        for number, height in enumerate(heights):
            if height >= 0.07:
                axes.text(
                    number,
                    base[number] + height / 2,
                    f"{100 * height:.0f}",
                    ha="center",
                    va="center",
                    fontsize=6.5,
                    color=_on(to_rgb(look.color)),
                )
        base = [start + height for start, height in zip(base, heights, strict=True)]
    axes.set_xticks(range(len(names)), names)
    axes.tick_params(axis="x", length=0)
    axes.grid(False)


def draw_points(axes: "Axes", places: Sequence[tuple[Number, Number]], look: Look, *, label: str) -> None:
    """Points at (x, y); their label stands in the legend of `name_parts`."""
    if places:
        x, y = zip(*places, strict=True)
        axes.plot(x, y, color=look.color, marker=look.marker, linestyle="", alpha=0.8, label=label, clip_on=False)


def draw_level(axes: "Axes", value: Number, label: str) -> None:
    """A named horizontal line: what chance, or a model, would give."""
    axes.axhline(value, color=_INK, linewidth=0.8, linestyle=":")
    axes.annotate(
        label,
        (1.0, value),
        xycoords=axes.get_yaxis_transform(),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=7.5,
        annotation_clip=False,
    )


def name_parts(figure: "Figure", panels: Sequence["Axes"]) -> None:
    """One legend for all panels, at the right; the last drawn on top, as in a stack."""
    named: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    labels = list(reversed(named))
    figure.legend([named[label] for label in labels], labels, loc="outside right center", handlelength=1.0)


def save_figure(figure: "Figure", stem: Path) -> tuple[Path, Path]:
    """Keep a figure as PNG, at 200 dots per inch, and as SVG, its text as text.

    The same numbers give the same bytes with the same release of matplotlib: there is no date in them, and no chance.

    Args:
        figure: Drawn by a finding.
        stem: The files' path without an ending; files that are there are replaced.

    Raises:
        StorageError: The disk refused.
    """
    images = {".svg": _bytes(figure, "svg", _UNDATED)}
    figure.set_layout_engine("none")  # panels stay where they were laid, which takes as long as drawing them
    images[".png"] = _bytes(figure, "png", {"Software": None})
    paths = []
    for ending, content in images.items():
        path = stem.with_name(stem.name + ending)
        with replacing(path) as temporary:
            temporary.write_bytes(content)
        paths.append(path)
    svg, png = paths
    return png, svg


def svg_text(figure: "Figure") -> str:
    """The figure as an `<svg>` element for a page that holds others too: its ids and styles are its own."""
    whole = _bytes(figure, "svg", _UNDATED).decode()
    element = whole[whole.index("<svg") :]
    own = f"f{sha256(element.encode()).hexdigest()[:10]}-"
    named = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{own}", element)
    # A style element is the whole page's; what it says of every element, they inherit as well.
    found = re.search(r"<style[^>]*>\s*\*\s*\{([^}]*)\}\s*</style>", named)
    if found is None:
        return named
    return named.replace(found[0], "").replace("<svg ", f'<svg style="{found[1].strip()}" ', 1)


_UNDATED = {"Date": None, "Creator": None}


def _bytes(figure: "Figure", kind: str, about: Mapping[str, None]) -> bytes:
    out = io.BytesIO()
    with style():  # ticks are made when a figure is first written
        figure.savefig(out, format=kind, metadata=dict(about))
    return out.getvalue()


def _figure(axes: "Axes") -> "Figure":
    figure = axes.get_figure(root=True)
    if figure is None:
        raise ValueError("The panel was taken out of its figure.")
    return figure


def _columns(axes: "Axes") -> int:
    spec = axes.get_subplotspec()
    return 1 if spec is None else spec.get_gridspec().ncols


def _name_ends(axes: "Axes", lines: Sequence[Line]) -> None:
    """Write each line's label at its end, moved apart where ends are close."""
    spec = axes.get_subplotspec()
    down = 1 if spec is None else spec.get_gridspec().nrows
    inches = _figure(axes).get_figheight() / down - 0.75  # title, axis and its name take the rest
    ends = [(_height(axes, line.x[-1], line.y[-1]), line) for line in lines if line.label and len(line.y)]
    ends.sort(key=lambda end: end[0])
    labels = ["\n".join(wrap(line.label, 18)) for _, line in ends]
    sizes = [(label.count("\n") + 1) * _LINE_INCHES / inches for label in labels]
    for (_, line), label, place in zip(ends, labels, _apart([end for end, _ in ends], sizes, 1.0), strict=True):
        axes.annotate(
            label,
            (1.0, place),
            xycoords="axes fraction",
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            linespacing=1.0,
            fontsize=7.5,
            color=_darker(line.look.color),
            annotation_clip=False,
        )


def _height(axes: "Axes", x: Number, y: Number) -> float:
    """Where a point lies in a panel, from 0 at the bottom to 1 at the top; one outside lies at the nearer edge."""
    axes.get_ylim()  # settles limits that are still to be found from the data, which transforms do not
    found = float((axes.transScale + axes.transLimits).transform((x, y))[1])
    return found if 0 <= found <= 1 else float(found > 1)


def _apart(wanted: Sequence[float], sizes: Sequence[float], most: float) -> list[float]:
    """Ascending places near those wanted, none nearer to the next than half of both sizes, at most a little over."""
    places = list(wanted)
    for number in range(1, len(places)):
        least = places[number - 1] + (sizes[number - 1] + sizes[number]) / 2
        places[number] = max(places[number], least)
    ceiling = most + (sizes[-1] / 2 if sizes else 0.0)
    for number in reversed(range(len(places))):
        places[number] = min(places[number], ceiling - sizes[number] / 2)
        ceiling = places[number] - sizes[number] / 2
    return places


def _legend_above(axes: "Axes", entries: int) -> None:
    """A legend between a panel and its title, which moves up for it."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2, handlelength=1.2)
    axes.set_title(axes.get_title(loc="left"), pad=6 + 12 * -(-entries // 3))


def _darker(color: str) -> str:
    """The same hue as text needs it on white, where pale letters are hard to read."""
    return "#" + "".join(f"{int(0.78 * int(color[at : at + 2], 16)):02x}" for at in (1, 3, 5))


def _on(color: tuple[float, ...]) -> str:
    """The color of text that can be read on another."""
    red, green, blue, *_ = color
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.55 else _INK
