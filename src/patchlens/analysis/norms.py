"""How long states are, and the few that are much longer than the others.

It sees lengths and largest entries; which entry it was, or what the token says, it does not know.
"""

from collections.abc import Mapping
from functools import partial
from math import erf, exp, lgamma, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from patchlens.analysis import drawing
from patchlens.analysis.drawing import Line
from patchlens.analysis.finding import Cell, Finding, Table
from patchlens.analysis.rows import codes, groups, mean, numbers, records, share
from patchlens.errors import OptionError, StudyError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["gaussian_largest", "high_norm_tokens", "norms"]

_COLUMNS = (
    *("model", "kind", "layer", "images", "tokens", "mean norm", "low", "high"),
    *("least", "lower quartile", "median", "upper quartile", "99 %", "largest"),
    *("high-norm tokens", "share of high-norm tokens", "low share", "high share"),
)
_HIGH = (
    *("model", "kind", "position", "images", "of images", "first layer", "last layer"),
    *("norm", "times the median", "largest entry / norm", "expected of a Gaussian"),
)


def norms(states: pa.Table, *, multiple: float = 10.0) -> Finding:
    """Summarize the Euclidean length of states, per layer and kind of token.

    Args:
        states: With the columns of `STATES`.
        multiple: Tokens longer than so many times the median of their model, kind and layer are high-norm.

    Raises:
        StudyError: There are no states.
        OptionError: The multiple is not above 1.
    """
    known = _known(states, multiple)
    rows: list[tuple[Cell, ...]] = []
    for key, part in groups(known, ("model", "kind", "layer")):
        lengths, (images, names) = numbers(part, "norm"), codes(part, "image")
        middle, high = mean(lengths, images), lengths > multiple * np.median(lengths)
        spread = np.quantile(lengths, (0.0, 0.25, 0.5, 0.75, 0.99, 1.0)).tolist()
        about = (len(names), len(lengths), middle.value, middle.low, middle.high)
        rows.append((*key, *about, *spread, int(high.sum()), *share(high, images)))
    table = Table.of(_COLUMNS, rows)
    return Finding(
        name="norms",
        title="Norms of hidden states",
        note=(
            f"Euclidean lengths of the states of single tokens, of {len(pc.unique(known['image']))} images; 95 % "
            "intervals are from resampling images. A high-norm token is longer than "
            f"{multiple:g} times the median of its model, kind and layer; such tokens move a mean far from the median."
        ),
        table=table,
        draw=partial(_draw_norms, table),
    )


def high_norm_tokens(
    states: pa.Table, *, multiple: float = 10.0, d_model: Mapping[str, int] | None = None, most: int = 50
) -> Finding:
    """List where high-norm tokens stand in the sequence, and whether one entry makes them long.

    Args:
        states: With the columns of `STATES`.
        multiple: As in `norms`.
        d_model: Width of each model's states, for what the largest entry of a Gaussian vector would be.
        most: Positions listed, of all models, those of most images first.

    Raises:
        StudyError: There are no states.
        OptionError: The multiple is not above 1, or a width or `most` is not positive.
    """
    if most < 1:
        raise OptionError(f"The list of high-norm tokens was to have {most} positions. Ask for at least one.")
    known = _known(states, multiple)
    expected = {model: gaussian_largest(width) for model, width in (d_model or {}).items()}
    rows: list[tuple[Cell, ...]] = []
    for (model, kind), part in groups(known, ("model", "kind")):
        medians = {layer: float(np.median(numbers(those, "norm"))) for (layer,), those in groups(part, ("layer",))}
        times = numbers(part, "norm") / [medians[layer] for layer in part["layer"].to_pylist()]
        marked = part.append_column("times", pa.array(times))
        for (position,), those in groups(marked, ("position",)):
            high = those.filter(pc.greater(those["times"], multiple))
            if high.num_rows:
                rows.append((model, kind, position, *_about(those, high), expected.get(model)))
    rows.sort(key=lambda row: (-_number(row[3]), -_number(row[8])))
    table = Table.of(_HIGH, rows[:most])
    listed = f"; the {most} of most images are listed" if len(rows) > most else ""
    return Finding(
        name="high-norm-tokens",
        title="Tokens with a norm far above the others",
        note=(
            f"{len(rows)} positions hold, in some image and at some layer, a token longer than {multiple:g} times the "
            f"median of its model, kind and layer{listed}. The last columns are of the longest of them: how many "
            "medians it is long, and its largest absolute entry over its norm. A token that is long through a few "
            "outlier dimensions has a large ratio; one that is longer in all of them stays near the ratio of a "
            "vector of independent Gaussian entries."
        ),
        table=table,
        draw=partial(_draw_high, table) if rows else None,
    )


def gaussian_largest(d_model: int) -> float:
    """What to expect of the largest absolute entry of a Gaussian vector, over the vector's norm.

    A Gaussian vector's direction does not depend on its length, so the expected ratio is the ratio of the expected
    values: E max |zᵢ|, integrated from the distribution of the largest, over E ‖z‖ = √2 Γ((d + 1) / 2) / Γ(d / 2).

    Args:
        d_model: Entries of the vector.

    Raises:
        OptionError: There are none.

    Example:
        >>> round(gaussian_largest(1), 6), round(gaussian_largest(4096), 3)
        (1.0, 0.059)
    """
    if d_model < 1:
        raise OptionError(f"The width of the states is {d_model}. Expected the model's d_model, a positive number.")
    steps = np.linspace(0.0, 12.0, 12_001)
    below = np.array([erf(step / sqrt(2)) for step in steps]) ** d_model
    largest = float(np.trapezoid(1 - below, steps))
    return largest / (sqrt(2) * exp(lgamma((d_model + 1) / 2) - lgamma(d_model / 2)))


def _known(states: pa.Table, multiple: float) -> pa.Table:
    if not multiple > 1:
        raise OptionError(f"Tokens longer than {multiple:g} times the median were asked for. Expected more than 1.")
    known = states.filter(pc.is_valid(states["norm"]))
    if not known.num_rows:
        raise StudyError("There are no states to take norms of. Run the study with states of its models.")
    return known


def _about(all_there: pa.Table, high: pa.Table) -> tuple[Cell, ...]:
    """Of one position: images, of how many, first and last layer; norm, times the median and ratio of the longest."""
    longest = high.take([int(np.argmax(numbers(high, "times")))]).to_pylist()[0]
    layers = codes(high, "layer")[1]
    ratio = None if longest["largest"] is None else longest["largest"] / longest["norm"]
    images = (len(codes(high, "image")[1]), len(codes(all_there, "image")[1]))
    return (*images, layers[0], layers[-1], longest["norm"], longest["times"], ratio)


def _number(cell: Cell) -> float:
    return float(cell) if isinstance(cell, int | float) else 0.0


@drawing.style()
def _draw_norms(table: Table) -> "Figure":
    rows = records(table)
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure, panels = drawing.figure_of(models, x="layer", y="Euclidean norm", width=3.6, shared=False)
    for axes, model in zip(panels, models, strict=True):
        here = [row for row in rows if row["model"] == model]
        shown = [row[name] for row in here for name in ("lower quartile", "largest") if row[name] > 0]
        axes.set_ylim(min(shown, default=1.0) / 1.5, 1.5 * max(shown, default=1.0))
        drawing.log_axis(axes, "y")
        drawing.layer_axis(axes, [row["layer"] for row in here])
        lines: list[Line] = []
        for kind, look in drawing.KINDS.items():
            part = [row for row in here if row["kind"] == kind and row["median"] > 0]  # zero has no logarithm
            if part:
                lines += _norm_lines(kind, look, part)
        drawing.draw_lines(axes, lines)
    drawing.footnote(figure, "Solid: the median, with the quartiles as a band. Dashed: the longest token.")
    return figure


def _norm_lines(kind: str, look: drawing.Look, part: list[dict[str, Any]]) -> tuple[Line, Line]:
    x = [row["layer"] for row in part]
    low, high = [row["lower quartile"] for row in part], [row["upper quartile"] for row in part]
    return (
        Line(kind, x, [row["median"] for row in part], look, low, high),
        Line(f"{kind}, longest", x, [row["largest"] for row in part], look, dashed=True),
    )


@drawing.style()
def _draw_high(table: Table) -> "Figure":
    rows = [row for row in records(table) if row["largest entry / norm"] is not None]
    models = [str(model) for model in dict.fromkeys(table.column("model"))]
    figure, panels = drawing.figure_of(models, x="norm / median norm", y="largest entry / norm")
    for axes, model in zip(panels, models, strict=True):
        here = [row for row in rows if row["model"] == model]
        axes.set_ylim(0, 1)
        times = [row["times the median"] for row in here]
        axes.set_xlim(1, 1.5 * max(times, default=1.0))
        drawing.log_axis(axes, "x")
        for kind, look in drawing.KINDS.items():
            part = [row for row in here if row["kind"] == kind]
            places = [(row["times the median"], row["largest entry / norm"]) for row in part]
            drawing.draw_points(axes, places, look, label=kind)
        expected = {row["expected of a Gaussian"] for row in here} - {None}
        for value in expected:
            drawing.draw_level(axes, value, "Gaussian")
    drawing.name_parts(figure, panels)
    return figure
