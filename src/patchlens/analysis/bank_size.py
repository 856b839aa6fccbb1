"""What a smaller bank costs: how much of what the whole bank says is still said, and how near it still is.

It asks no judge; a smaller bank may say other words that are as good.
"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from patchlens.analysis import drawing
from patchlens.analysis.drawing import Line, Look
from patchlens.analysis.finding import Cell, Finding, Table
from patchlens.analysis.overlap import overlap_rows
from patchlens.analysis.rows import codes, groups, mean, numbers, own, records, top
from patchlens.errors import OptionError, StudyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["bank_size"]

_COLUMNS = (
    *("model", "lens", "share of the bank", "layer", "images", "patches"),
    *("mean cosine", "low", "high", "words in common", "low words", "high words", "words by chance"),
)


def bank_size(candidates: pa.Table, shares: Mapping[str, float], *, k: int = 5) -> Finding:
    """Compare readings with parts of a bank to those with all of it, per layer.

    Args:
        candidates: With the columns of `CANDIDATES`; baselines are left out.
        shares: The labels of the lenses that searched parts of one bank, and the share of its rows that each searched;
            one of them searched all, share 1.
        k: Candidates of each reading that count.

    Raises:
        StudyError: There are no readings with the whole bank, or none with a part of it, of any model.
        OptionError: None of the labels has share 1, several have, or a share is not in (0, 1].
    """
    whole = [label for label, share in shares.items() if share == 1]
    wrong = [label for label, share in shares.items() if not 0 < share <= 1]
    if wrong or len(whole) != 1:
        found = f"{wrong[0]!r} has {shares[wrong[0]]}" if wrong else f"{len(whole)} have 1"
        raise OptionError(
            f"Comparing parts of a bank, of the lenses {', '.join(map(repr, shares)) or 'given (none)'} {found}. Give "
            "each the share of the rows that it searched, in (0, 1], and exactly one the share 1."
        )
    rows: list[tuple[Cell, ...]] = []
    said = own(candidates)
    for (model,), part in groups(said, ("model",)):
        lenses = {lens: those for (lens,), those in groups(part, ("lens",)) if lens in shares}
        if whole[0] in lenses and len(lenses) > 1:
            for lens in sorted(lenses, key=lambda label: shares[label]):
                rows += _rows((model, lens, shares[lens]), lenses[lens], lenses[whole[0]], k)
    if not rows:
        raise StudyError(
            f"No model was read both with {whole[0]!r} and with a part of its bank; the lenses in these records are "
            f"{', '.join(map(repr, codes(candidates, 'lens')[1])) or 'none'}. Run the study with both."
        )
    table = Table.of(_COLUMNS, rows)
    return Finding(
        name="bank-size",
        title="What a smaller bank costs",
        note=(
            f"Of the top {k} words with a random part of the bank, how many are among those with all of it, whatever "
            "their case, and the cosine of the nearest candidate; both are means over the visual tokens of "
            f"{len(pc.unique(said['image']))} images, with intervals from resampling images. Chance is the overlap "
            "with what the whole bank says of other images. A word that is not in common need not be worse: only a "
            "judge can say what a smaller bank costs in meaning."
        ),
        table=table,
        draw=partial(_draw, table, k),
    )


def _rows(key: tuple[Any, ...], part: pa.Table, whole: pa.Table, k: int) -> list[tuple[Cell, ...]]:
    """The rows of one model and lens, in the order of layers."""
    nearest = {layer: _nearest(those) for (layer,), those in groups(top(part, 1), ("layer",))}
    return [
        (*key, layer, images, patches, *nearest[layer], *words)
        for _, layer, images, patches, *words in overlap_rows(part, whole, k, kinds=("words",))
    ]


def _nearest(part: pa.Table) -> tuple[Cell, ...]:
    """The mean similarity and its interval; unknown for a lens that has none."""
    known = part.filter(pc.is_valid(part["similarity"]))
    if not known.num_rows:
        return None, None, None
    found = mean(numbers(known, "similarity"), codes(known, "image")[0])
    return found.value, found.low, found.high


@drawing.style()
def _draw(table: Table, k: int) -> "Figure":
    rows = records(table)
    models = list(dict.fromkeys(row["model"] for row in rows))
    shares = sorted({row["share of the bank"] for row in rows})
    looks = dict(zip(shares, drawing.shades(len(shares)), strict=True))
    titles = [title for model in models for title in (f"{model}: words in common", f"{model}: nearest candidate")]
    figure, panels = drawing.figure_of(titles, x="layer", y="", columns=2, shared=False)
    for number, model in enumerate(models):
        here = [row for row in rows if row["model"] == model]
        words, cosines = panels[2 * number], panels[2 * number + 1]
        words.set_ylabel(f"words in common, of {k}")
        words.set_ylim(0, 1.04 * k)
        _draw_panel(words, [row for row in here if row["share of the bank"] < 1], looks, "words in common", " words")
        cosines.set_ylabel("cosine (mean)")
        known = [row for row in here if row["mean cosine"] is not None]
        cosines.set_ylim(0, 1.1 * max((row["mean cosine"] for row in known), default=1.0))
        _draw_panel(cosines, known, looks, "mean cosine", "")
    return figure


def _draw_panel(axes: "Axes", rows: list[dict[str, Any]], looks: Mapping[float, Look], value: str, ends: str) -> None:
    """One line for each share of the bank."""
    lines = []
    for share, look in looks.items():
        part = [row for row in rows if row["share of the bank"] == share]
        low, high = ([row[f"{end}{ends}"] for row in part] for end in ("low", "high"))
        x = [row["layer"] for row in part]
        lines.append(Line(f"{100 * share:.3g} %", x, [row[value] for row in part], look, low, high))
    if rows:
        drawing.layer_axis(axes, sorted({row["layer"] for row in rows}))
        drawing.draw_lines(axes, [line for line in lines if line.x])
