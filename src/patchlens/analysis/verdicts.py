"""What the analyses of verdicts have in common: which rows, how much they rest on, which panels and lines."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from patchlens.analysis import drawing
from patchlens.analysis.finding import Cell, Table
from patchlens.analysis.rows import codes
from patchlens.errors import OptionError, StudyError
from patchlens.evaluation import metrics
from patchlens.evaluation.metrics import Series, Tally
from patchlens.evaluation.verdict import UNDECIDED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "SERIES",
    "UNDECIDED_COLUMNS",
    "Point",
    "account",
    "anything",
    "by",
    "canvas",
    "cells_of",
    "chosen",
    "curve",
    "draw_curves",
    "draw_rows",
    "looks_of",
    "panels",
    "percent",
    "span",
    "suffix",
    "undecided_cells",
]

SERIES = ("judge", "model", "lens", "baseline")
"""Columns that say whose verdicts on what."""
UNDECIDED_COLUMNS = ("undecided", *UNDECIDED)
"""Columns of what was left out, in all and by reason."""


@dataclass(frozen=True)
class Point:
    """A value with its interval, for `draw_rows`."""

    row: int
    """Which row it lies in, from the top."""
    value: float
    low: float | None
    """Lower end; None where it is unknown."""
    high: float | None
    """Upper end."""
    look: drawing.Look
    """Its color and sign."""
    filled: bool = True
    """Hollow otherwise."""


def chosen(verdicts: pa.Table, lenses: Sequence[str] | None = None) -> pa.Table:
    """The rows of some lenses and their baselines, among them the random rows of a judge and model that has them.

    Raises:
        OptionError: There is no verdict on one of the lenses.
        StudyError: There are no verdicts at all.
    """
    if not verdicts.num_rows:
        raise StudyError("There are no verdicts to count. Run the study with at least one judge.")
    if lenses is None:
        return verdicts
    names = verdicts["lens"].cast(pa.string())
    known = names.unique().to_pylist()
    if missing := [lens for lens in lenses if lens not in known]:
        raise OptionError(
            f"The verdicts on the lens {missing[0]!r} were asked for, and there are none. Choose among "
            f"{', '.join(known)}."
        )
    wanted = np.asarray(pc.is_in(names, value_set=pa.array(list(lenses), pa.string())))
    random = np.asarray(pc.equal(pc.fill_null(verdicts["baseline"].cast(pa.string()), ""), metrics.RANDOM_ROWS))
    (judge, _), (model, models) = codes(verdicts, "judge"), codes(verdicts, "model")
    sheet = judge * len(models) + model
    return verdicts.filter(pa.array(wanted | (random & np.isin(sheet, sheet[wanted]))))


def cells_of(series: Series) -> tuple[Cell, ...]:
    """A series under the columns `SERIES`."""
    return series.judge, series.model, series.lens, series.baseline


def undecided_cells(tally: Tally) -> tuple[Cell, ...]:
    """What was left out, under `UNDECIDED_COLUMNS`."""
    return sum(tally.undecided), *tally.undecided


def account(tallies: Iterable[Tally], things: str = "patches") -> str:
    """How much shares rest on, what their intervals are, and what is in none of them: sentences for a note."""
    every = list(tallies)
    own = [tally for tally in every if tally.series.baseline is None] or every
    decided, images = span(tally.decided for tally in own), span(tally.images for tally in own)
    if all(tally.decided == tally.images for tally in every):
        rests = (
            f"Each share rests on {decided} {things}, one per image and so independent; intervals are Wilson's, 95 %."
        )
    else:
        rests = (
            f"Each share rests on {decided} {things} of {images} images. Images, not {things}, are taken for "
            "independent; intervals are those of a ratio over clusters, 95 %."
        )
    missing = [sum(tally.undecided) for tally in every]
    if not any(missing):
        return f"{rests} None is undecided."
    counts = {reason: sum(tally.undecided[number] for tally in every) for number, reason in enumerate(UNDECIDED)}
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in counts.items() if count)
    total = sum(missing) + sum(tally.decided for tally in every)
    most = max(count / (count + tally.decided) for count, tally in zip(missing, every, strict=True))
    return (
        f"{rests} Over all lenses, baselines and layers {sum(missing):,} of {total:,} are undecided ({reasons}), of no "
        f"share more than {100 * most:.1f} %: they are left out of it and never count as a no."
    )


def anything(table: Table, column: str) -> bool:
    """Whether there is a value to draw; none where all was left undecided."""
    return any(value is not None for value in table.column(column))


def span(values: Iterable[int | float], form: str = ",") -> str:
    """The least and the largest of some numbers, "97 to 100"; one number if they look alike, "no" of none."""
    found = sorted(values)
    if not found:
        return "no"
    ends = dict.fromkeys(format(value, form) for value in (found[0], found[-1]))
    return " to ".join(ends)


def suffix(top: int) -> str:
    """What the name of a finding ends in when another number of candidates counts than the usual five."""
    return "" if top == 5 else f"-top-{top}"


def by(rows: Iterable[dict[str, Any]], *names: str) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Rows by their values in some columns, in order of appearance."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return found


def panels(rows: Iterable[dict[str, Any]], *more: str, model: bool = True) -> dict[str, list[dict[str, Any]]]:
    """Rows by model, by judge and by further columns, each part under a title that names what differs.

    Args:
        rows: Those of a table.
        more: Columns besides the judge and the model.
        model: Whether titles name the model; without, `more` has to.
    """
    every = list(rows)
    order = {name: list(dict.fromkeys(row[name] for row in every)) for name in ("model", "judge")}
    several = {name: len(values) > 1 for name, values in order.items()}
    found: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(every, key=lambda row: [values.index(row[name]) for name, values in order.items()]):
        named = [str(row[name]) for name in more]
        if model and (several["model"] or not (named or several["judge"])):
            named.insert(0, row["model"])
        if several["judge"]:
            named.append(f"judged by {row['judge']}")
        found.setdefault(", ".join(named), []).append(row)
    return found


def canvas(
    found: Mapping[str, Sequence[dict[str, Any]]],
    *,
    x: str,
    y: str,
    across: int | None = None,
    height: float = 2.4,
    shared: bool = True,
) -> "tuple[Figure, list[Axes]]":
    """A figure with one panel for each of `panels`; few are drawn larger.

    Args:
        found: Their titles and rows.
        x: What the horizontal axes show.
        y: What the vertical axes show.
        across: Panels side by side, at most three; None for one judge beside the other if there are several.
        height: Of a panel, in inches.
        shared: Whether they have one vertical scale.
    """
    judges = len({row["judge"] for rows in found.values() for row in rows})
    wanted = (judges if judges > 1 else 2 if len(found) in (2, 4) else 3) if across is None else across
    across = max(1, min(wanted, len(found), 3))
    width = {1: 4.8, 2: 4.1, 3: 3.3}[across]
    titles = ["\n".join(wrap(title, int(13 * width))) for title in found]
    return drawing.figure_of(titles, x=x, y=y, columns=across, width=width, height=height, shared=shared)


def looks_of(rows: Iterable[dict[str, Any]]) -> dict[str, drawing.Look]:
    """One look for each lens of a table, the same in all its panels."""
    return drawing.lens_looks(list(dict.fromkeys(row["lens"] for row in rows)))


def curve(
    rows: Iterable[dict[str, Any]],
    label: str,
    look: drawing.Look,
    *,
    x: str = "layer",
    y: str = "share",
    dashed: bool = False,
) -> drawing.Line:
    """A line through the rows that have a value, with their intervals if it is not dashed."""
    known = sorted((row for row in rows if row[y] is not None), key=lambda row: float(row[x]))
    of = {name: [row[name] for row in known] for name in (x, y, "low", "high")}
    if dashed:
        return drawing.Line(label, of[x], of[y], look, dashed=True)
    return drawing.Line(label, of[x], of[y], look, of["low"], of["high"])


def draw_curves(axes: "Axes", lines: Sequence[drawing.Line]) -> None:
    """Lines with their names, and no more signs on them than can be told apart."""
    drawing.draw_lines(axes, [line for line in lines if not line.label])
    drawing.draw_lines(axes, [line for line in lines if line.label])
    for drawn in axes.get_lines():
        drawn.set_markevery(max(1, np.size(drawn.get_xdata()) // 12))
        if drawn.get_linestyle() == "--":
            drawn.set(linewidth=0.9, markersize=2.4)


def draw_rows(axes: "Axes", names: Sequence[str], points: Iterable[Point]) -> None:
    """Values with their intervals, in named rows, the first at the top.

    Args:
        axes: An empty panel; its horizontal axis holds the values.
        names: Of the rows.
        points: Those of one row lie one below the other.
    """
    of_rows: dict[int, list[Point]] = {}
    for point in points:
        of_rows.setdefault(point.row, []).append(point)
    for row, those in of_rows.items():
        for number, point in enumerate(those):
            y = row + 0.2 * (number - (len(those) - 1) / 2)
            color = point.look.color
            if point.low is not None and point.high is not None:
                axes.plot([point.low, point.high], [y, y], color=color, linewidth=1.1, solid_capstyle="butt")
            inside = color if point.filled else "white"
            axes.plot(point.value, y, color=color, marker=point.look.marker, markerfacecolor=inside, clip_on=False)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.grid(True, axis="x")


def percent(value: float, _: object = None) -> str:
    """A share on an axis."""
    return f"{100 * value:.0f} %"
