"""Which classes of words lenses say: nouns, verbs, function words, colors; per lens and layer."""

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from patchlens.analysis import drawing
from patchlens.analysis.drawing import Look
from patchlens.analysis.finding import Cell, Finding, Table
from patchlens.analysis.lexicon import COLOR_WORDS, WORD_CLASSES, Lexicon
from patchlens.analysis.rows import codes, groups, records, share, top
from patchlens.errors import StudyError
from patchlens.evaluation.intervals import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLOR", "word_classes"]

COLOR = "color word"
"""The row of color words, which are counted in their own class too."""

_COLUMNS = (*("model", "lens", "baseline", "layer", "class", "images", "candidates", "count", "share", "low", "high"),)
_LOOKS = {
    "noun": Look("#0072b2", "o"),
    "proper noun": Look("#56b4e9", "o"),
    "verb": Look("#009e73", "o"),
    "adjective": Look("#e69f00", "o"),
    "adverb": Look("#f0e442", "o"),
    "number": Look("#cc79a7", "o"),
    "function word": Look("#8a8a8a", "o"),
    "other": Look("#dddddd", "o"),
}


def word_classes(candidates: pa.Table, lexicon: Lexicon, *, k: int = 5) -> Finding:
    """Count the candidates' words by class, per lens and layer, and the color words among them.

    Args:
        candidates: With the columns of `CANDIDATES`; random rows of the bank are counted beside the lenses, as they say
            what words a corpus holds, and readings of other images are left out.
        lexicon: Knows the classes.
        k: Candidates of each reading that count.

    Raises:
        StudyError: There are no candidates.
    """
    other = pc.fill_null(pc.not_equal(candidates["baseline"].cast(pa.string()), "random rows"), False)
    said = top(candidates.filter(pc.invert(other)), k)
    if not said.num_rows:
        raise StudyError("There are no candidates to count words of. Run the study with a lens.")
    classes, colors = _classes(said, lexicon)
    said = said.append_column("class", pa.array(classes)).append_column("color", pa.array(colors))
    rows: list[tuple[Cell, ...]] = []
    for key, part in groups(said, ("model", "lens", "baseline", "layer")):
        (images, names), found = codes(part, "image"), part["class"].to_numpy()
        hits: list[tuple[str, Array]] = [(name, found == number) for number, name in enumerate(WORD_CLASSES)]
        for name, those in (*hits, (COLOR, part["color"].to_numpy())):
            rows.append((*key, name, len(names), len(found), int(those.sum()), *share(those, images)))
    table = Table.of(_COLUMNS, rows)
    return Finding(
        name="word-classes",
        title="Word classes of what lenses say",
        note=(
            f"The classes of the top {k} candidates by {lexicon.name}: for every word the one that it is most used in, "
            "whatever it is in its sentence. A proper noun is told by its capital, best where there is a sentence, "
            "which LogitLens and EmbeddingLens do not have: compare nouns and proper nouns together. A piece of a word "
            "that spells another word is counted as that one. Color words have a row of their own, and count in their "
            "class too. Intervals take images for independent."
        ),
        table=table,
        draw=partial(_draw, table),
    )


def _classes(said: pa.Table, lexicon: Lexicon) -> tuple[Array, Array]:
    """The number in WORD_CLASSES of each candidate's word, and whether it names a color; each asked once."""
    word, words = codes(said, "word")
    sentence, sentences = codes(said, "sentence")
    start = np.asarray(pc.fill_null(said["word_start"], -1).to_numpy())
    uses, which = np.unique(np.stack([word, sentence, start]), axis=1, return_inverse=True)
    known = np.array(
        [
            WORD_CLASSES.index(
                lexicon.word_class(words[of_word], *((sentences[of_sentence], at) if of_sentence >= 0 <= at else ()))
            )
            for of_word, of_sentence, at in uses.T.tolist()
        ]
    )
    colors = np.array([text.strip().lower() in COLOR_WORDS for text in words])
    return known[which.reshape(-1)], colors[word]


@drawing.style()
def _draw(table: Table) -> "Figure":
    rows = [row for row in records(table) if row["class"] != COLOR]
    of_panels: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        of_panels.setdefault((row["model"], row["lens"], row["baseline"]), []).append(row)
    titles = [f"{model}: {baseline or drawing.lens_title(lens)}" for model, lens, baseline in of_panels]
    figure, panels = drawing.figure_of(titles, x="layer", y="share of candidates")
    for axes, part in zip(panels, of_panels.values(), strict=True):
        layers = sorted({row["layer"] for row in part})
        shares = {name: ([row["share"] for row in part if row["class"] == name], look) for name, look in _LOOKS.items()}
        drawing.draw_stacks(axes, [str(layer) for layer in layers], shares)
        drawing.percent_axis(axes)
    drawing.name_parts(figure, panels)
    return figure
