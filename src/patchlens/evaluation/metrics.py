"""What verdicts add up to: shares of interpretable patches and candidates, lens against lens, lens against chance.

Every number comes from the rows of `records.VERDICTS_TABLE`. A patch is interpretable when one of its first candidates
is concrete, abstract or global. It is undecided when no decided candidate is, and some are undecided; undecided patches
and candidates are in no share and stand beside it, by reason.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from patchlens.errors import OptionError, StudyError
from patchlens.evaluation.intervals import Array, clustered, wilson
from patchlens.evaluation.statistics import (
    bootstrap,
    difference,
    holm,
    mcnemar,
    minimum_detectable_effect,
    minimum_detectable_paired_effect,
    ratio,
)
from patchlens.evaluation.verdict import INTERPRETABLE, UNDECIDED, VERDICTS

__all__ = [
    "RANDOM_ROWS",
    "Comparison",
    "Mean",
    "Series",
    "Sheet",
    "Tally",
    "against_baselines",
    "by_rank",
    "candidates",
    "interpretability",
    "over_layers",
    "paired",
    "sheets",
]

_CODES = (*VERDICTS, *UNDECIDED)
_DECIDED, _ABSENT = len(VERDICTS), len(_CODES)
_HIT = len(INTERPRETABLE)
"""Codes in a sheet: hits lie below this, then "unrelated", from `_DECIDED` on why not, `_ABSENT` for no candidate."""

RANDOM_ROWS = "random rows"
"""The baseline that is every lens's; any other is of the lens that its rows name."""

Line = tuple[str, str | None]
"""Lens and baseline."""


@dataclass(frozen=True, order=True)
class Series:
    """Whose verdicts on what: a line of a figure."""

    judge: str
    model: str
    lens: str
    baseline: str | None = None
    """As in the tables; None for the lens's own reading."""


@dataclass(frozen=True)
class Tally:
    """Verdicts counted, of patches or of candidates."""

    series: Series
    layer: int | None
    """None for all layers together."""
    rank: int | None
    """Of the candidates counted, from 1; None where patches or all candidates are counted."""
    kind: str | None
    """The one verdict that is a hit; None for any of `INTERPRETABLE`."""
    counts: tuple[int, ...]
    """Decided, in the order of `VERDICTS`; a patch counts for the first verdict that one of its candidates has."""
    undecided: tuple[int, ...]
    """Undecided, in the order of `UNDECIDED`; a patch counts for the first reason that one of its candidates has."""
    images: int
    """Images with something decided: the independent trials."""
    low: float
    """Lower end of the share's 95 % interval: Wilson's, or `intervals.clustered` where an image counts repeatedly."""
    high: float
    """Upper end."""

    @property
    def decided(self) -> int:
        """Patches or candidates behind the share."""
        return sum(self.counts)

    @property
    def hits(self) -> int:
        """How many of them are interpretable, or of the one kind."""
        return sum(self.counts[:_HIT]) if self.kind is None else self.counts[VERDICTS.index(self.kind)]

    @property
    def share(self) -> float | None:
        """Hits over decided, in [0, 1]; None if nothing was decided."""
        return self.hits / self.decided if self.decided else None

    @property
    def detectable(self) -> float | None:
        """The smallest difference from this share that a test on as many other images would find with a power of 80 %.

        None where not even the largest would be found.
        """
        return None if self.share is None else minimum_detectable_effect(self.images, share=self.share)


@dataclass(frozen=True)
class Mean:
    """The mean over layers of the share of interpretable patches."""

    series: Series
    layers: tuple[int, ...]
    """Those with a decided patch."""
    images: int
    """Images with a decided patch at one of them."""
    value: float
    """In [0, 1]."""
    low: float | None
    """Lower end of the 95 % bootstrap interval by image; None with fewer than two images."""
    high: float | None
    """Upper end."""


@dataclass(frozen=True)
class Comparison:
    """Two series of one judge and model on the patches that were decided for both."""

    first: Series
    second: Series
    layer: int | None
    """None for the mean over layers."""
    patches: int
    """Decided for both; over all layers, the sum."""
    images: int
    """That these patches are of."""
    difference: float | None = None
    """Share of the first less share of the second; None without patches."""
    low: float | None = None
    """Lower end of its 95 % interval, not adjusted for the number of tests."""
    high: float | None = None
    """Upper end."""
    p: float | None = None
    """Of the exact two-sided test of `paired`; None over layers and without patches."""
    adjusted: float | None = None
    """p after Holm's adjustment over the family."""
    family: int = 0
    """Tests adjusted together: all of one judge and model that one call made."""
    detectable: float | None = None
    """The smallest difference that the test finds with a power of 80 % if as many patches are decided differently;
    None where not even the largest would be found, and over layers."""


@dataclass(frozen=True, eq=False)
class Sheet:
    """All verdicts of one judge on one model as one array."""

    judge: str
    model: str
    lines: tuple[Line, ...]
    """In order of appearance."""
    layers: tuple[int, ...]
    """Ascending."""
    images: Array
    """The image of each patch as a number from 0 [patch]."""
    codes: Array
    """[line, layer, patch, rank], int8: places in `VERDICTS`, then those in `UNDECIDED`, then "no such candidate"."""

    def series(self, line: int) -> Series:
        """A line's full name."""
        return Series(self.judge, self.model, *self.lines[line])

    def patches(self, top: int) -> Array:
        """The code of each patch by its first candidates [line, layer, patch]: verdict, else reason, else none."""
        best = self.codes[..., :top].min(-1)
        doubtful = (self.codes[..., :top] >= _DECIDED) & (self.codes[..., :top] < _ABSENT)
        reason = np.where(doubtful, self.codes[..., :top], _ABSENT).min(-1)
        patches: Array = np.where((best == _HIT) & (reason < _ABSENT), reason, best)
        return patches

    def sums(self, values: Array) -> Array:
        """Add up over the patches of each image: [..., patch] to [image, ...]."""
        added = np.zeros((int(self.images.max(initial=-1)) + 1, *values.shape[:-1]))
        np.add.at(added, self.images, np.moveaxis(values, -1, 0))
        return added


def sheets(verdicts: pa.Table) -> tuple[Sheet, ...]:
    """Arrange the rows of verdicts: one sheet per judge and model, in order of appearance.

    Raises:
        StudyError: A candidate was judged twice by one judge, or a verdict is unknown.
    """
    if not len(verdicts):
        return ()
    (judge, judges), (model, models) = _coded(verdicts["judge"]), _coded(verdicts["model"])
    number, first = _numbered(judge, model)
    return tuple(
        _sheet(verdicts.take(np.flatnonzero(number == one)), str(judges[judge[row]]), str(models[model[row]]))
        for one, row in enumerate(first)
    )


def interpretability(
    verdicts: pa.Table, *, top: int = 5, kind: str | None = None, by_layer: bool = True
) -> tuple[Tally, ...]:
    """Count the interpretable patches of every series.

    Args:
        verdicts: Rows of `records.VERDICTS_TABLE`.
        top: Candidates that count; 1 asks of the best one alone.
        kind: The one verdict that counts, None for any of `INTERPRETABLE`. A patch has the first of `VERDICTS` that one
            of its candidates has.
        by_layer: Whether to count each layer by itself.

    Raises:
        OptionError: `top` is below 1, or there is no such kind.
        StudyError: As in `sheets`.
    """
    return tuple(
        tally
        for sheet, codes in _by_patch(verdicts, top)
        for tally in _of_layers(sheet, codes[..., None], kind, by_layer)
    )


def candidates(
    verdicts: pa.Table, *, top: int = 5, kind: str | None = None, by_layer: bool = True
) -> tuple[Tally, ...]:
    """Count the first candidates of all patches, each by itself; arguments as in `interpretability`.

    Raises:
        OptionError: `top` is below 1, or there is no such kind.
        StudyError: As in `sheets`.
    """
    return tuple(
        tally
        for sheet, _ in _by_patch(verdicts, top)
        for tally in _of_layers(sheet, sheet.codes[..., :top], kind, by_layer)
    )


def by_rank(verdicts: pa.Table) -> tuple[Tally, ...]:
    """Count the candidates of each rank, over all layers of every series.

    Raises:
        StudyError: As in `sheets`.
    """
    return tuple(
        replace(tally, rank=rank + 1)
        for sheet in sheets(verdicts)
        for rank, tally in _tallies(sheet, np.swapaxes(sheet.codes, 1, 3), None)
    )


def over_layers(verdicts: pa.Table, *, top: int = 5) -> tuple[Mean, ...]:
    """The mean over layers of every series, each layer weighing the same.

    The layers of an image are not independent: the bootstrap draws images, each with all of its layers. Where all
    patches are interpretable, or none is, no draw differs, and the interval is Wilson's for so many images.

    Raises:
        OptionError: `top` is below 1.
        StudyError: As in `sheets`.
    """
    means = []
    for sheet, codes in _by_patch(verdicts, top):
        for line in range(len(sheet.lines)):
            known = np.flatnonzero((codes[line] < _DECIDED).any(-1))
            sums = _hits_and_trials(sheet, codes[line, known])
            sums = sums[sums[..., 1].any(-1)]
            if len(sums):
                found = bootstrap(sums, lambda totals: ratio(totals).mean(-1))
                low, high = found.low, found.high
                if low is not None and low == high and found.value in (0, 1):
                    low, high = wilson(int(found.value) * len(sums), len(sums))
                layers = tuple(sheet.layers[layer] for layer in known)
                means.append(Mean(sheet.series(line), layers, len(sums), found.value, low, high))
    return tuple(means)


def paired(
    verdicts: pa.Table, pairs: Iterable[tuple[str, str]] | None = None, *, top: int = 5
) -> tuple[Comparison, ...]:
    """Compare lenses on the same patches, layer by layer and over layers.

    The tests of one judge and model, over all pairs and layers, are one family of Holm's adjustment. Where an image has
    several patches it counts once, for the lens with more interpretable ones: the exact sign test, which with one patch
    per image is McNemar's. The interval of the difference then comes from a bootstrap by image.

    Args:
        verdicts: Rows of `records.VERDICTS_TABLE`.
        pairs: Two lenses each, as rows call them; None for every two. A judge and model without them is passed over.
        top: Candidates that count.

    Raises:
        OptionError: `top` is below 1, or there is no verdict on a lens of the pairs.
        StudyError: As in `sheets`.
    """
    arranged = list(_by_patch(verdicts, top))
    wanted = None if pairs is None else [((first, None), (second, None)) for first, second in pairs]
    known = list(dict.fromkeys(lens for sheet, _ in arranged for lens, baseline in sheet.lines if baseline is None))
    for lens, _ in (line for pair in wanted or () for line in pair):
        if lens not in known:
            raise OptionError(
                f"Lenses are to be compared, and there is no verdict on {lens!r}; there are verdicts on "
                f"{', '.join(known) or 'none'}. Choose among these."
            )
    found = []
    for sheet, codes in arranged:
        own = [line for line in sheet.lines if line[1] is None]
        found += _compared(sheet, codes, list(combinations(own, 2)) if wanted is None else wanted)
    return tuple(found)


def against_baselines(verdicts: pa.Table, *, top: int = 5) -> tuple[Comparison, ...]:
    """Compare every lens with its own reading of another image, and with random rows of the bank, on the same patches.

    As in `paired`; the family is all lenses, baselines and layers of one judge and model.

    Raises:
        OptionError: `top` is below 1.
        StudyError: As in `sheets`.
    """
    found = []
    for sheet, codes in _by_patch(verdicts, top):
        own = [line for line in sheet.lines if line[1] is None]
        chance = [line for line in sheet.lines if line[1] is not None]
        pairs = [(mine, other) for mine in own for other in chance if other[0] == mine[0] or other[1] == RANDOM_ROWS]
        found += _compared(sheet, codes, pairs)
    return tuple(found)


def _compared(sheet: Sheet, codes: Array, pairs: Sequence[tuple[Line, Line]]) -> list[Comparison]:
    """Compare lines of one sheet at every layer and over them; the tests are one family."""
    place = {line: number for number, line in enumerate(sheet.lines)}
    made = [
        _comparison(sheet, codes, place[first], place[second], layer)
        for first, second in pairs
        if first in place and second in place
        for layer in (*range(len(sheet.layers)), None)
    ]
    tested = [comparison.p for comparison in made if comparison.p is not None]
    adjusted = iter(holm(tested))
    return [
        comparison if comparison.p is None else replace(comparison, adjusted=next(adjusted), family=len(tested))
        for comparison in made
    ]


def _comparison(sheet: Sheet, codes: Array, first: int, second: int, layer: int | None) -> Comparison:
    """Of two lines at one layer, or over all: those with a patch that was decided for both."""
    at = slice(None) if layer is None else slice(layer, layer + 1)
    one, other = codes[first, at], codes[second, at]
    both = (one < _DECIDED) & (other < _DECIDED)
    sums = sheet.sums(np.stack([both & (one < _HIT), both & (other < _HIT), both], axis=-2))
    sums = sums[sums[..., 2].any(-1)][:, both.any(-1)]
    made = Comparison(
        sheet.series(first),
        sheet.series(second),
        None if layer is None else sheet.layers[layer],
        patches=int(both.sum()),
        images=len(sums),
    )
    if not len(sums):
        return made
    if layer is None:
        found = bootstrap(sums, lambda totals: difference(totals).mean(-1))
        low, high = found.low, found.high
        if (
            low is not None and low == high and found.value in (-1, 0, 1)
        ):  # no image differs from another: as if each were one pair
            first_alone, second_alone = np.full(len(sums), found.value > 0), np.full(len(sums), found.value < 0)
            low, high = mcnemar(first_alone, second_alone).interval
        return replace(made, difference=found.value, low=low, high=high)
    hits, others, patches = sums[:, 0].T
    if patches.max() > 1:
        pairs, found = mcnemar(hits > others, others > hits), bootstrap(sums[:, 0], difference)
        value, low, high = found.value, found.low, found.high
    else:
        pairs = mcnemar(hits > 0, others > 0)
        value, (low, high) = pairs.difference, pairs.interval
    discordance = (pairs.only_first + pairs.only_second) / pairs.pairs
    detectable = minimum_detectable_paired_effect(len(sums), discordance=discordance) if discordance else None
    return replace(made, difference=value, low=low, high=high, p=pairs.p, detectable=detectable)


def _of_layers(sheet: Sheet, codes: Array, kind: str | None, by_layer: bool) -> Iterator[Tally]:
    """Count codes [line, layer, patch, candidate], of each layer or of all together."""
    if kind is not None and kind not in VERDICTS:
        raise OptionError(f"Verdicts {kind!r} were to be counted. Expected one of {', '.join(VERDICTS)}.")
    if by_layer:
        return (replace(tally, layer=sheet.layers[layer]) for layer, tally in _tallies(sheet, codes, kind))
    together = np.swapaxes(codes, 1, 2).reshape(len(codes), 1, len(sheet.images), -1)
    return (tally for _, tally in _tallies(sheet, together, kind))


def _tallies(sheet: Sheet, codes: Array, kind: str | None) -> Iterator[tuple[int, Tally]]:
    """Count codes [line, part, patch, repeated]: the number of the part, and its tally."""
    hit = codes < _HIT if kind is None else codes == VERDICTS.index(kind)
    sums = sheet.sums(np.stack([hit, codes < _DECIDED]).sum(-1).transpose(1, 2, 0, 3))  # [image, line, part, 2]
    for line, part in np.argwhere((codes < _ABSENT).any((2, 3))).tolist():
        counts = np.bincount(codes[line, part].ravel(), minlength=_ABSENT).tolist()
        hits, trials = sums[:, line, part].T
        alone = trials.max() <= 1
        low, high = wilson(int(hits.sum()), int(trials.sum())) if alone else clustered(hits, trials)
        yield (
            part,
            Tally(
                sheet.series(line),
                layer=None,
                rank=None,
                kind=kind,
                counts=tuple(counts[:_DECIDED]),
                undecided=tuple(counts[_DECIDED:_ABSENT]),
                images=int((trials > 0).sum()),
                low=low,
                high=high,
            ),
        )


def _hits_and_trials(sheet: Sheet, codes: Array) -> Array:
    """Of codes [..., patch], by image [image, ..., 2]."""
    return sheet.sums(np.stack([codes < _HIT, codes < _DECIDED], axis=-2))


def _by_patch(verdicts: pa.Table, top: int) -> Iterator[tuple[Sheet, Array]]:
    """Every sheet with the codes of its patches [line, layer, patch]."""
    if top < 1:
        raise OptionError(f"The first {top} candidates of a patch were to count. Expected at least 1; 5 are usual.")
    return ((sheet, sheet.patches(top)) for sheet in sheets(verdicts))


def _sheet(verdicts: pa.Table, judge: str, model: str) -> Sheet:
    """Of the rows of one judge and model."""
    (lens, lenses), (baseline, baselines) = _coded(verdicts["lens"]), _coded(verdicts["baseline"])
    image, names = _coded(verdicts["image"])
    line, first_of_line = _numbered(lens, baseline)
    patch, first_of_patch = _numbered(image, *(_whole(verdicts[name]) for name in ("tile", "row", "column")))
    layers, layer = np.unique(_whole(verdicts["layer"]), return_inverse=True)
    rank = _whole(verdicts["rank"]) - 1
    said = pc.coalesce(verdicts["verdict"].cast(pa.string()), verdicts["undecided"].cast(pa.string()))
    code = _whole(pc.index_in(said, pa.array(_CODES)))
    if (strange := np.flatnonzero(code < 0)).size:
        raise StudyError(
            f"Counting the verdicts of {judge} on {model}: one of {names[image[strange[0]]]} says "
            f"{said[int(strange[0])].as_py()!r}. Expected one of {', '.join(_CODES)}; the table was edited."
        )
    shape = (len(first_of_line), len(layers), len(first_of_patch), int(rank.max()) + 1)
    cell = np.ravel_multi_index((line, layer, patch, rank), shape)
    times = np.bincount(cell, minlength=1)
    if times.max() > 1:
        row = int(np.flatnonzero(cell == times.argmax())[0])
        rubrics = ", ".join(str(name) for name in verdicts["rubric"].unique().to_pylist())
        raise StudyError(
            f"Counting the verdicts of {judge} on {model}: candidate {rank[row] + 1} of {names[image[row]]} at layer "
            f"{layers[layer[row]]} under {lenses[lens[row]]!r} is there {times.max()} times (rubrics: {rubrics}). Give "
            "each row once, and the rows of one rubric."
        )
    codes = np.full(shape, _ABSENT, dtype=np.int8)
    codes.ravel()[cell] = code
    return Sheet(
        judge,
        model,
        tuple((str(lenses[lens[row]]), baselines[baseline[row]]) for row in first_of_line),
        tuple(layers.tolist()),
        _numbered(image[first_of_patch])[0],
        codes,
    )


def _coded(column: pa.ChunkedArray) -> tuple[Array, list[str | None]]:
    """A column of names as numbers, -1 for null, and the name of each number."""
    whole = column.unify_dictionaries().combine_chunks()
    return _whole(whole.indices), [*whole.dictionary.to_pylist(), None]


def _whole(column: pa.ChunkedArray | pa.Array) -> Array:
    """Whole numbers, -1 for null."""
    numbers: Array = np.asarray(pc.fill_null(column, -1)).astype(np.int64)
    return numbers


def _numbered(*columns: Array) -> tuple[Array, Array]:
    """Number the different combinations in order of appearance; and where each appears first."""
    joined = np.zeros_like(columns[0])
    for column in columns:
        joined = joined * (column.max() + 2) + column + 1
    _, first, number = np.unique(joined, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return np.argsort(order)[number], first[order]
