"""A run of ours beside the paper's figures of the same model, or of another one, which is then said."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from patchlens.analysis import drawing
from patchlens.analysis.finding import Cell, Finding, Table
from patchlens.analysis.rows import own, records
from patchlens.analysis.verdicts import account, anything, by, canvas, chosen, curve, draw_curves, looks_of, panels
from patchlens.errors import OptionError, StudyError
from patchlens.evaluation import metrics
from patchlens.evaluation.intervals import wilson
from patchlens.evaluation.metrics import Series, Tally
from patchlens.evaluation.published import LENSES, Published, PublishedModel, published

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["beside_published", "published_table"]

_MEAN = "mean"
"""Stands in the column "layer" for the mean over layers: of one model, over those that both have."""
_COLUMNS = (
    *("judge", "model", "published model", "same model", "lens", "layer", "relative depth"),
    *("patches", "share", "low", "high"),
    *("published patches", "published share", "published low", "published high"),
)


@dataclass(frozen=True)
class _Beside:
    """One of our models with a published one."""

    model: str
    """As the rows call it."""
    depth: int
    """Its blocks."""
    shown: PublishedModel
    same: bool
    """Whether it is the same model."""

    def about(self, series: Series) -> tuple[Cell, ...]:
        """What stands before a layer."""
        return series.judge, series.model, self.shown.name, self.same, series.lens

    def theirs(self, percent: float | None) -> tuple[Cell, ...]:
        """A published share, with the interval that so many patches give."""
        if percent is None:
            return (None,) * 4
        patches = self.shown.patches
        return patches, percent / 100, *wilson(round(percent / 100 * patches), patches)


def beside_published(
    verdicts: pa.Table,
    *,
    models: Mapping[str, str] | None = None,
    others: Sequence[str] = (),
    depths: Mapping[str, int] | None = None,
) -> Finding:
    """Our shares of interpretable patches with the published ones, by relative depth.

    Args:
        verdicts: Rows of `records.VERDICTS_TABLE`; lenses that are called otherwise than the paper's are left out.
        models: By our model, as the rows call it, the published one that it is: the paper's name or a Hugging Face id.
            A model that is not among them is looked for by what the rows call it.
        others: Published models to draw beside each of ours although they are other models.
        depths: By our model, the blocks of its language model. Left out, they are those of the same model as published;
            where there is none, the deepest judged layer stands for all of them.

    Raises:
        OptionError: Nothing is published under a name that was given.
        StudyError: Nothing is published of any of the models and no other is asked for, there are no verdicts on the
            paper's lenses, or one candidate was judged twice.

    Reference:
        arXiv 2602.00462, figures 3 and 5.
    """
    rows = _of_paper(chosen(verdicts))
    known = published()
    pairs = list(_pairs(rows, known, models or {}, others, depths or {}))
    if not pairs:
        raise StudyError(
            f"Nothing is published of {', '.join(rows['model'].unique().to_pylist())}. Say which published model it "
            "is, or ask for another one by its name."
        )
    tallies = metrics.interpretability(rows)
    table = Table.of(
        _COLUMNS, [cells for beside in pairs for cells in (*_layers(beside, tallies), *_means(beside, rows))]
    )
    sources = dict.fromkeys(beside.shown.interpretability["latent"].source for beside in pairs)
    strange = ", ".join(dict.fromkeys(beside.shown.name for beside in pairs if not beside.same))
    warning = f" Not the model that was run, and shown for orientation alone: {strange}." if strange else ""
    return Finding(
        name="beside-published",
        title="Beside the published figures",
        note=(
            f"Solid: this run. {account(tallies)} Dashed: {known.paper}; {'; '.join(sources)}. The published "
            "numbers rest on the paper's own images, patches, judge and rubric, so that a difference need not come "
            "from the model or the lens. Their intervals are ours, Wilson's for the published number of patches. "
            f"Means of the same model are over the layers that both have.{warning}"
        ),
        table=table,
        draw=partial(_draw, table) if anything(table, "share") else None,
    )


def published_table(name: str) -> Finding:
    """One of the paper's tables, as it was published.

    Args:
        name: In `published().tables`, such as "corpus_size".

    Raises:
        OptionError: There is none of that name.
    """
    tables = published().tables
    if name not in tables:
        raise OptionError(f"The published table {name!r} was asked for. Known: {', '.join(tables)}.")
    found = tables[name]
    columns = list(dict.fromkeys(column for values in found.rows.values() for column in values))
    rests = "" if found.n is None else f" From {found.n}."
    return Finding(
        name=f"published-{name.replace('_', '-')}",
        title=f"Published: {name.replace('_', ' ')}",
        note=f"{found.what}.{rests} Source: {found.source}.",
        table=Table.of(["", *columns], [(row, *map(values.get, columns)) for row, values in found.rows.items()]),
    )


def _of_paper(rows: pa.Table) -> pa.Table:
    """Readings of the lenses that the paper compares."""
    found = own(rows.filter(pc.is_in(rows["lens"].cast(pa.string()), value_set=pa.array(LENSES))))
    if not found.num_rows:
        raise StudyError(
            f"The verdicts are on {', '.join(rows['lens'].unique().to_pylist())}, and published are figures of "
            f"{', '.join(LENSES)}. Call your lenses so to see them beside these."
        )
    return found


def _pairs(
    rows: pa.Table, known: Published, models: Mapping[str, str], others: Sequence[str], depths: Mapping[str, int]
) -> Iterator[_Beside]:
    """Each of our models with itself as published, and with the other ones that were asked for."""
    for model in rows["model"].unique().to_pylist():
        same = known.model(models[model]) if model in models else known.for_model(model)
        deepest = pc.max(rows.filter(pc.equal(rows["model"].cast(pa.string()), model))["layer"]).as_py()
        depth = depths.get(model) or (same.depth if same else max(1, deepest))
        if same is not None:
            yield _Beside(model, depth, same, same=True)
        for other in map(known.model, others):
            if other != same:
                yield _Beside(model, depth, other, same=False)


def _layers(beside: _Beside, tallies: Sequence[Tally]) -> Iterator[tuple[Cell, ...]]:
    """Layer by layer, of every judge and lens."""
    of_model = [tally for tally in tallies if tally.series.model == beside.model]
    for series in dict.fromkeys(tally.series for tally in of_model):
        ours = {tally.layer: tally for tally in of_model if tally.series == series and tally.layer is not None}
        theirs = beside.shown.interpretability[series.lens].values
        about = beside.about(series)
        if beside.same:
            for layer in sorted(ours.keys() | theirs.keys()):
                yield (*about, layer, layer / beside.depth, *_ours(ours.get(layer)), *beside.theirs(theirs.get(layer)))
        else:  # layers of equal number have nothing in common
            for layer, tally in ours.items():
                yield (*about, layer, layer / beside.depth, *_ours(tally), *beside.theirs(None))
            for layer, percent in theirs.items():
                yield (*about, layer, layer / beside.shown.depth, *_ours(None), *beside.theirs(percent))


def _means(beside: _Beside, rows: pa.Table) -> Iterator[tuple[Cell, ...]]:
    """The mean over layers, of every judge and lens: of the same model, over those that both have."""
    mine = rows.filter(pc.equal(rows["model"].cast(pa.string()), beside.model))
    if beside.same:
        mine = mine.filter(pc.is_in(mine["layer"], value_set=pa.array(beside.shown.layers, pa.int32())))
    for mean in metrics.over_layers(mine):
        theirs = beside.shown.interpretability[mean.series.lens].values
        layers = mean.layers if beside.same else theirs
        published_mean = fmean(theirs[layer] for layer in layers) / 100
        ours = (None, mean.value, mean.low, mean.high)
        yield (*beside.about(mean.series), _MEAN, None, *ours, None, published_mean, None, None)


def _ours(tally: Tally | None) -> tuple[Cell, ...]:
    return (None,) * 4 if tally is None else (tally.decided, tally.share, tally.low, tally.high)


@drawing.style()
def _draw(table: Table) -> "Figure":
    rows = [row | {"title": _title(row)} for row in records(table) if row["layer"] != _MEAN]
    looks, found = looks_of(rows), panels(rows, "title", model=False)
    figure, axes = canvas(found, x="relative depth", y="interpretable patches")
    for panel, part in zip(axes, found.values(), strict=True):
        drawing.percent_axis(panel)
        panel.set_xlim(-0.03, 1.03)
        lines = []
        for (lens,), those in by(part, "lens").items():
            lines += [
                curve(those, "", looks[lens], x="relative depth", y="published share", dashed=True),
                curve(those, drawing.lens_title(lens), looks[lens], x="relative depth"),
            ]
        draw_curves(panel, lines)
    drawing.footnote(
        figure,
        "Solid, with 95 % intervals: this run. Dashed: published. Depth: the layer over the language model's blocks.",
    )
    return figure


def _title(row: dict[str, Any]) -> str:
    """What is shown beside what, never without saying whether it is the same model."""
    which = "the same model" if row["same model"] else "another model"
    return f"{row['model']}; published: {row['published model']}, {which}"
