"""How often a lens names what is truly there, from readings and truth alone.

A visual token is a hit when any of its candidates is a true word, compared whole and without regard to case: a piece of
a word is no hit, which costs the lenses that only know single tokens the nouns that are built from several.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
import pyarrow.compute as pc

from patchlens.errors import OptionError
from patchlens.evaluation.intervals import clustered
from patchlens.evaluation.truth import PatchTruth, SceneTruth
from patchlens.lenses.reading import Readings

__all__ = ["REGIONS", "WHAT", "Share", "name_shares"]

Region = Literal["object", "background", "all"]
What = Literal["thing", "color", "word", "place", "kind", "elsewhere", "there", "scene"]

REGIONS: tuple[Region, ...] = get_args(Region)
"""Which visual tokens are counted."""
WHAT: tuple[What, ...] = get_args(What)
"""What counts as a hit: one category of `PatchTruth`; `there`, any of thing, color, word, place and kind of the
patch itself; `scene`, that or something elsewhere in the image."""

_CATEGORIES = tuple(field.name for field in fields(PatchTruth) if field.name != "on_object")
_THERE = tuple(name for name in _CATEGORIES if name != "elsewhere")

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Share:
    """The share of visual tokens whose candidates name what is there, for one lens, layer and region."""

    lens: str
    layer: int
    region: Region
    what: What
    tokens: int
    """Visual tokens counted, over all images: those of the region that have a truth of this category."""
    share: float
    """Hits over tokens, in [0, 1]."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the 95 % interval."""

    def __str__(self) -> str:
        return f"{self.share:.1%} [{self.low:.1%}, {self.high:.1%}]" if self.tokens else "–"


def name_shares(readings: Readings, truths: Mapping[str, SceneTruth]) -> tuple[Share, ...]:
    """Count hits per lens, layer, region and category.

    A single category is asked of the visual tokens that have one (`word` of the patches of signs), `there` and `scene`
    of all. The interval takes images, not patches, for independent: see `intervals.clustered`.

    Args:
        readings: Readings of visual tokens; images without a truth are left out.
        truths: What is true, by the image's name.

    Raises:
        OptionError: No image of the readings has a truth, or a grid differs from its truth's.
    """
    names = [name for name in readings.images if name in truths]
    if not names:
        raise OptionError(
            f"None of the images {', '.join(readings.images)} has a known truth ({', '.join(truths) or 'none'} have). "
            "Give the truth of at least one of them."
        )
    counts = [_counts(readings.select(image=name), truths[name]) for name in names]
    shares = []
    for lens, layer in sorted({key for count in counts for key in count}):
        of_images = np.stack([count[lens, layer] for count in counts if (lens, layer) in count])
        for r, region in enumerate(REGIONS):
            for w, what in enumerate(WHAT):
                hits, tokens = of_images[:, r, w].T
                total = int(tokens.sum())
                share = float(hits.sum() / total) if total else 0.0
                shares.append(Share(lens, layer, region, what, total, share, *clustered(hits, tokens)))
    return tuple(shares)


def _counts(readings: Readings, truth: SceneTruth) -> dict[tuple[str, int], Array]:
    """Hits and tokens of one image: (lens, layer) to an array [region, what, 2]."""
    grid = readings.grids.get(truth.image)
    if grid is None or (grid.rows, grid.columns) != (truth.rows, truth.columns):
        found = "no patch grid" if grid is None else f"a grid of {grid.rows} × {grid.columns}"
        raise OptionError(
            f"The readings of {truth.image} have {found}, its truth one of {truth.rows} × {truth.columns}. "
            "Use the truth for this model's grid."
        )
    table = readings.table.filter(pc.is_valid(readings.table["row"]))
    patch = table["row"].to_numpy() * truth.columns + table["column"].to_numpy()
    said = _hits(table["word"].combine_chunks(), patch, truth)
    start = np.flatnonzero(table["rank"].to_numpy() == 1)
    hit = np.logical_or.reduceat(said, start, axis=0)
    known = [[bool(_true_words(p, what)) or what in ("there", "scene") for what in WHAT] for p in truth.patches]
    asked = np.array(known)[patch[start]]
    layers = table["layer"].to_numpy()[start]
    lenses = np.asarray(table["lens"].combine_chunks().dictionary_decode().to_pylist(), dtype=object)[start]
    on_object = np.array([p.on_object for p in truth.patches])[patch[start]]
    regions = {"object": on_object, "background": ~on_object, "all": np.ones_like(on_object)}
    counts = {}
    for lens, layer in sorted(set(zip(lenses.tolist(), layers.tolist(), strict=True))):
        here = (lenses == lens) & (layers == layer)
        inside = [here & regions[region] for region in REGIONS]
        counts[lens, layer] = np.stack([np.stack([hit[i].sum(0), asked[i].sum(0)], axis=-1) for i in inside])
    return counts


def _hits(words: Any, patch: Array, truth: SceneTruth) -> Array:
    """Whether each candidate is a true word of its patch: [candidate, what].

    Only distinct pairs of a word and a patch's truth are compared.
    """
    if hasattr(words, "chunks"):
        words = words.combine_chunks() if words.num_chunks != 1 else words.chunk(0)
    vocabulary = [word.lower() for word in words.dictionary.to_pylist()]
    distinct = list(dict.fromkeys(truth.patches))
    table = np.zeros((len(distinct), len(vocabulary), len(WHAT)), dtype=bool)
    place: dict[str, list[int]] = {word: [] for word in vocabulary}
    for number, word in enumerate(vocabulary):
        place[word].append(number)
    for d, about in enumerate(distinct):
        for w, what in enumerate(WHAT):
            for word in _true_words(about, what):
                table[d, place.get(word, []), w] = True
    which = np.array([distinct.index(p) for p in truth.patches])
    hits: Array = table[which[patch], words.indices.to_numpy()]
    return hits


def _true_words(about: PatchTruth, what: What) -> frozenset[str]:
    names = {"there": _THERE, "scene": _CATEGORIES}.get(what, (what,))
    return frozenset().union(*(getattr(about, name) for name in names))
