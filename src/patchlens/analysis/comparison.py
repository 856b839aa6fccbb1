"""Lens against lens, against chance, and against itself with another bank: on the same patches, image by image."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from textwrap import wrap
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from patchlens.analysis import drawing
from patchlens.analysis.finding import Cell, Finding, Table
from patchlens.analysis.rows import records
from patchlens.analysis.verdicts import (
    SERIES,
    Point,
    account,
    anything,
    by,
    canvas,
    cells_of,
    chosen,
    curve,
    draw_curves,
    draw_rows,
    panels,
    percent,
    span,
    suffix,
)
from patchlens.errors import OptionError, StudyError
from patchlens.evaluation import metrics
from patchlens.evaluation.metrics import RANDOM_ROWS, Comparison, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["bank_sizes", "baseline_tests", "groups", "paired_tests", "variants"]

Value: TypeAlias = int | float | str

_LEVEL = 0.05
_MEAN = "mean"
"""Stands in the column "layer" for the mean over layers."""
_VARIANTS = (
    *(*SERIES, "value", "layer", "top", "images", "share", "low", "high"),
    *("against", "difference", "difference low", "difference high", "p", "p (Holm)"),
)
_TESTS = (
    *("judge", "model", "lens", "against", "baseline", "layer", "top", "patches", "images"),
    *("difference", "low", "high", "p", "p (Holm)", "tests", "detectable difference"),
)


def paired_tests(
    verdicts: pa.Table,
    pairs: Iterable[tuple[str, str]] | None = None,
    *,
    top: int = 5,
    lenses: Sequence[str] | None = None,
) -> Finding:
    """Compare lenses two by two on the same patches, at each layer and over layers.

    Args:
        verdicts: Rows of `records.VERDICTS_TABLE`.
        pairs: Two lenses each, as the rows call them; None for every two of `lenses`.
        top: Candidates that count.
        lenses: Which to compare when no pairs are given; None for all.

    Raises:
        OptionError: `top` is below 1, or there is no verdict on one of the lenses.
        StudyError: There are no verdicts, or one candidate was judged twice.
    """
    return _tests(
        metrics.paired(chosen(verdicts, lenses), pairs, top=top),
        top,
        name="paired-tests",
        title="Lens against lens on the same patches",
        family="pairs of lenses and layers",
    )


def baseline_tests(verdicts: pa.Table, *, top: int = 5, lenses: Sequence[str] | None = None) -> Finding:
    """Compare each lens with its words for another image, and with random rows, at each layer and over layers.

    Args:
        verdicts: Rows of `records.VERDICTS_TABLE`.
        top: Candidates that count.
        lenses: Which to compare; None for all.

    Raises:
        OptionError: `top` is below 1, or there is no verdict on one of the lenses.
        StudyError: There are no verdicts, or one candidate was judged twice.
    """
    return _tests(
        metrics.against_baselines(chosen(verdicts, lenses), top=top),
        top,
        name="baseline-tests",
        title="Lens against chance on the same patches",
        family="lenses, baselines and layers",
    )


def bank_sizes(verdicts: pa.Table, shares: Mapping[str, float], *, top: int = 5) -> Finding:
    """What a smaller bank costs: the share of interpretable patches by the share of the bank's rows that was searched.

    Args:
        verdicts: Rows of `records.VERDICTS_TABLE`.
        shares: By lens, as the rows call them, the share of the bank, in (0, 1]. The largest is what others are held
            against.
        top: Candidates that count.

    Raises:
        OptionError: `top` is below 1, there are fewer than two sizes, or there is no verdict on one of the lenses.
        StudyError: There are no verdicts, or one candidate was judged twice.

    Reference:
        arXiv 2602.00462, §4.5 and table 1.
    """
    percents = {lens: 100 * share for lens, share in shares.items()}
    return replace(
        variants(verdicts, "percent of the bank", percents, top=top, unit=" %"),
        name="bank-sizes" + suffix(top),
        title="What a smaller bank costs in interpretable patches",
    )


def variants(verdicts: pa.Table, thing: str, values: Mapping[str, Value], *, top: int = 5, unit: str = "") -> Finding:
    """Compare variants of a lens that differ in one thing: another corpus, another cap, another rule of selection.

    Args:
        verdicts: Rows of `records.VERDICTS_TABLE`.
        thing: In what they differ, such as "contexts per token".
        values: By lens, as the rows call them, what it has there. Numbers make a curve, and others are held against the
            largest; texts make rows, and others are held against the first.
        top: Candidates that count.
        unit: Stands behind numbers.

    Raises:
        OptionError: `top` is below 1, there are fewer than two variants, or there is no verdict on one of them.
        StudyError: There are no verdicts, or one candidate was judged twice.
    """
    if len(values) < 2:
        raise OptionError(
            f"Variants are to be compared by {thing!r}, and there is only {', '.join(values) or 'none'}. Give two "
            "lenses or more, with a value each."
        )
    numeric = all(not isinstance(value, str) for value in values.values())
    reference = max(values, key=lambda lens: values[lens]) if numeric else next(iter(values))
    rows = chosen(verdicts, list(values))
    rows = rows.filter(pc.equal(pc.fill_null(rows["baseline"].cast(pa.string()), RANDOM_ROWS), RANDOM_ROWS))
    tallies = metrics.interpretability(rows, top=top)
    found: list[tuple[Series, int | None, int, float | None, float | None, float | None]] = [
        (mean.series, None, mean.images, mean.value, mean.low, mean.high) for mean in metrics.over_layers(rows, top=top)
    ]
    found += [(tally.series, tally.layer, tally.images, tally.share, tally.low, tally.high) for tally in tallies]
    others = [(lens, reference) for lens in values if lens != reference]
    against = {(one.first, one.layer): one for one in metrics.paired(rows, others, top=top)}
    table = Table.of(
        _VARIANTS,
        [
            (
                *(*cells_of(series), values.get(series.lens), _MEAN if layer is None else layer, top, *numbers),
                *_difference_cells(against.get((series, layer)), values[reference]),
            )
            for series, layer, *numbers in found
        ],
    )
    return Finding(
        name=f"compared-by-{re.sub(r'[^a-z0-9]+', '-', thing.lower()).strip('-')}{suffix(top)}",
        title=f"Compared by {thing}",
        note=(
            f"Shares of interpretable patches (top {top}). {account(tallies)} Means over layers, each layer weighing "
            f"the same, have 95 % bootstrap intervals by image. Differences are from {values[reference]}{unit} on the "
            "same patches, tested at each layer by McNemar's exact test and adjusted by Holm over all variants and "
            "layers of one judge and model; those of means have an interval and no test. Variants share the images, "
            "so differences say more than whether intervals overlap."
        ),
        table=table,
        draw=partial(_draw_variants, table, thing, numeric, unit) if anything(table, "share") else None,
    )


def groups(verdicts: pa.Table, members: Mapping[str, tuple[str, Value]], *, top: int = 5) -> tuple[Finding, ...]:
    """Compare several groups of variants; see `variants`.

    Args:
        verdicts: Rows of `records.VERDICTS_TABLE`.
        members: By lens, as the rows call them: in what its group differs, and what it has there.
        top: Candidates that count.

    Returns:
        One finding for each group.

    Raises:
        OptionError: `top` is below 1, a group has only one member, or there is no verdict on one of them.
        StudyError: There are no verdicts, or one candidate was judged twice.
    """
    of_groups: dict[str, dict[str, Value]] = {}
    for lens, (thing, value) in members.items():
        of_groups.setdefault(thing, {})[lens] = value
    return tuple(variants(verdicts, thing, values, top=top) for thing, values in of_groups.items())


def _tests(made: Sequence[Comparison], top: int, *, name: str, title: str, family: str) -> Finding:
    if not made:
        raise StudyError(
            f"{title}: no judge has verdicts on both sides of any model. Have a second lens judged, or baselines."
        )
    table = Table.of(
        _TESTS,
        [
            (
                *(one.first.judge, one.first.model, one.first.lens, one.second.lens, one.second.baseline),
                *(_MEAN if one.layer is None else one.layer, top, one.patches, one.images),
                *(one.difference, one.low, one.high, one.p, one.adjusted, one.family or None, one.detectable),
            )
            for one in made
        ],
    )
    tested = [one for one in made if one.p is not None]
    several = any(one.patches > one.images for one in tested)
    kind = (
        "An image has several patches and counts once, for the side with more interpretable ones (exact sign test); "
        "intervals are bootstrap intervals by image"
        if several
        else "The test is McNemar's, exact and two-sided; intervals are Newcombe's for paired shares"
    )
    return Finding(
        name=name + suffix(top),
        title=title,
        note=(
            f"Differences between shares of interpretable patches (top {top}), of the patches that were decided for "
            f"both: {span(one.images for one in tested)} images, which are independent. {kind}, 95 % and not adjusted. "
            f"“p (Holm)” is adjusted over all {family} of one judge and model ({span(one.family for one in tested)} "
            "tests). Rows of the mean over layers have a bootstrap interval by image and no test. A difference that is "
            "not significant is not shown to be none: the last column is the smallest that a single test at 5 % finds "
            "in 80 % of cases, if as many patches are decided differently."
        ),
        table=table,
        draw=partial(_draw_tests, table) if tested else None,
    )


@drawing.style()
def _draw_tests(table: Table) -> "Figure":
    rows = [row for row in records(table) if row["layer"] != _MEAN and row["difference"] is not None]
    looks = drawing.lens_looks(list(dict.fromkeys(row[name] for row in rows for name in ("lens", "against"))))
    found = panels(
        [row | {"title": f"{drawing.lens_title(row['lens'])} minus\N{NO-BREAK SPACE}…"} for row in rows], "title"
    )
    figure, axes = canvas(found, x="layer", y="difference in points", across=len({row["lens"] for row in rows}))
    ends = [0.0, *(row[end] for row in rows for end in ("low", "difference", "high") if row[end] is not None)]
    for panel, part in zip(axes, found.values(), strict=True):
        drawing.layer_axis(panel, sorted({row["layer"] for row in part}))
        panel.set_ylim(min(ends) - 0.03, max(ends) + 0.03)
        panel.yaxis.set_major_formatter(_points)
        panel.axhline(0, color="#666666", linewidth=0.6)
        size, lines = 3.6 if len(part) < 60 else 2.2, []
        for (lens, baseline), those in by(part, "against", "baseline").items():
            look = looks[lens] if looks[lens].marker != "x" else replace(looks[lens], marker="d")  # has an inside
            lines.append(curve(those, baseline or drawing.lens_title(lens), replace(look, marker=""), y="difference"))
            for found_one, inside in ((True, look.color), (False, "white")):
                shown = [row for row in those if (row["p (Holm)"] < _LEVEL) == found_one]
                x, y = [row["layer"] for row in shown], [row["difference"] for row in shown]
                panel.plot(x, y, look.marker, color=look.color, markerfacecolor=inside, markersize=size, zorder=3)
        drawing.draw_lines(panel, lines)
    drawing.footnote(
        figure,
        f"Filled: p < {_LEVEL} after Holm's adjustment over all tests of a judge and model. Bands: 95 % intervals.",
    )
    return figure


def _difference_cells(found: Comparison | None, reference: Value) -> tuple[Cell, ...]:
    if found is None:
        return (None,) * 6
    return reference, found.difference, found.low, found.high, found.p, found.adjusted


@drawing.style()
def _draw_variants(table: Table, thing: str, numeric: bool, unit: str) -> "Figure":
    rows = [row for row in records(table) if row["share"] is not None]
    values = list(dict.fromkeys(row["value"] for row in rows if row["baseline"] is None))
    values = sorted(values) if numeric else values
    names = {value: f"{value:g}{unit}" if numeric else value for value in values}
    by_order = drawing.shades(len(values)) if numeric else drawing.lens_looks(values).values()
    looks = dict(zip(values, by_order, strict=True))
    found = panels(rows)
    titles = [f"{title}: {what}" for title in found for what in ("mean over layers", "by layer")]
    figure, axes = drawing.figure_of(titles, x="", y="", columns=2, width=4.1, shared=False)
    for of_means, of_layers, part in zip(axes[::2], axes[1::2], found.values(), strict=True):
        means = [row for row in part if row["layer"] == _MEAN]
        layers = [row for row in part if row["layer"] != _MEAN]
        if numeric:
            _draw_numbers(of_means, means, thing, looks[values[-1]])
        else:
            _draw_texts(of_means, means, names, looks)
        drawing.layer_axis(of_layers, sorted({row["layer"] for row in layers}))
        drawing.percent_axis(of_layers)
        of_layers.set(xlabel="layer", ylabel="interpretable patches")
        random = drawing.lens_looks(["random"])["random"]
        lines = [
            curve(those, "random rows", random, dashed=True) if baseline else curve(those, names[value], looks[value])
            for (value, baseline), those in by(layers, "value", "baseline").items()
        ]
        draw_curves(of_layers, [replace(line, low=None, high=None) for line in lines])
    drawing.footnote(figure, "Intervals, at the left: 95 %, over images. Those of each layer are in the table.")
    return figure


def _draw_numbers(panel: "Axes", means: Sequence[dict[str, Any]], thing: str, look: drawing.Look) -> None:
    """Means as a curve over numbers."""
    own = [row for row in means if row["baseline"] is None]
    numbers = [row["value"] for row in own]
    drawing.percent_axis(panel)
    panel.set(xlabel=thing, ylabel="interpretable patches")
    panel.set_xlim(min(numbers), max(numbers))
    if min(numbers) > 0:
        panel.set_xlim(min(numbers) / 1.3, max(numbers) * 1.3)
        drawing.log_axis(panel, "x")
    drawing.draw_lines(panel, [curve(own, "", look, x="value")])
    for row in means:
        if row["baseline"] is not None:
            drawing.draw_level(panel, row["share"], "random rows")


def _draw_texts(
    panel: "Axes", means: Sequence[dict[str, Any]], names: Mapping[Any, str], looks: Mapping[Any, drawing.Look]
) -> None:
    """Means in rows."""
    order = list(names)
    random = drawing.lens_looks(["random"])["random"]
    points = [
        Point(
            len(order) if row["baseline"] else order.index(row["value"]),
            row["share"],
            row["low"],
            row["high"],
            random if row["baseline"] else looks[row["value"]],
        )
        for row in means
    ]
    chance = ["random rows"] if any(row["baseline"] for row in means) else []
    draw_rows(panel, [*("\n".join(wrap(name, 24)) for name in names.values()), *chance], points)
    panel.set(xlim=(0, 1), xlabel="interpretable patches")
    panel.xaxis.set_major_formatter(percent)


def _points(value: float, _: object = None) -> str:
    return f"{100 * value:+.0f}".replace("-", "−") if value else "0"
