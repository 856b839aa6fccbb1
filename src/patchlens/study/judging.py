"""From records to verdicts: what is asked about which patch, and the answers as rows.

The same questions go to every judge. A judge sees neither lens nor layer nor rank, and what it was asked once, by
whichever lens, it is not asked again.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from patchlens.evaluation.question import Question, Shown, ask_about
from patchlens.evaluation.records import CANDIDATES, VERDICTS_TABLE
from patchlens.evaluation.region import Region
from patchlens.evaluation.rubric import Rubric
from patchlens.evaluation.verdict import Answer
from patchlens.inputs.image import ImageInput

__all__ = ["Asked", "judged_rows", "questions", "regions_of", "verdict_rows"]

ANOTHER = "another image"


@dataclass(frozen=True, eq=False)
class Asked:
    """The candidates of one reading, and the question that they became."""

    rows: tuple[int, ...]
    """Their rows in the table of judged candidates, best ranked first."""
    shown: tuple[Shown, ...]
    """As the judge sees them, in the same order; the question holds each different one once."""
    question: Question


def regions_of(table: pa.Table) -> dict[str, Region]:
    """The region of every image that has one, from `records.REGIONS`."""
    return {
        row["image"]: Region(
            row["image"], row["tile"], row["row"], row["column"], (row["top"], row["left"], row["bottom"], row["right"])
        )
        for row in table.to_pylist()
        if row["tile"] is not None
    }


def judged_rows(
    candidates: pa.Table, lenses: Sequence[str], *, another: Sequence[str] = (), random_rows: bool = True, seed: int = 0
) -> pa.Table:
    """The candidates of judged patches, and those of another image's patch in their place.

    Args:
        candidates: Of one model, see `records.CANDIDATES`.
        lenses: Labels of the lenses to judge.
        another: Labels of the lenses that also get the baseline "another image": every image gets the candidates that
            the same lens gave at the same layer for the next image around a seeded circle of all images.
        random_rows: Whether the baseline of random rows is kept besides.
        seed: Chooses the circle.

    Returns:
        Rows of `CANDIDATES`; of the added ones image and place are those of the patch that they are held against.
    """
    own = pc.is_null(candidates["baseline"])
    wanted = pc.is_in(candidates["lens"].cast(pa.string()), value_set=pa.array(list(lenses), pa.string()))
    own_ones = pc.and_(own, wanted)
    all_ones = pc.or_(own_ones, pc.invert(own)) if random_rows else own_ones
    kept = candidates.filter(pc.and_(candidates["judged"], all_ones)).combine_chunks()
    lent = kept.filter(
        pc.and_(
            pc.is_null(kept["baseline"]),
            pc.is_in(kept["lens"].cast(pa.string()), value_set=pa.array(list(another), pa.string())),
        )
    )
    images = sorted(set(kept["image"].cast(pa.string()).to_pylist()))
    if len(images) < 2 or not lent.num_rows:
        return kept
    random.Random(f"{seed} another image").shuffle(images)
    before = dict(zip(images, images[-1:] + images[:-1], strict=True))  # an image's candidates go to the one before it
    places = {row["image"]: row for row in _places(kept)}
    given = [before[name] for name in lent["image"].cast(pa.string()).to_pylist()]
    for name in ("image", "tile", "row", "column", "position"):
        field = CANDIDATES.field(name)
        column = pa.array([places[image][name] for image in given]).cast(field.type)
        lent = lent.set_column(lent.schema.get_field_index(name), field, column)
    marked = pa.array([ANOTHER] * lent.num_rows).cast(CANDIDATES.field("baseline").type)
    lent = lent.set_column(lent.schema.get_field_index("baseline"), CANDIDATES.field("baseline"), marked)
    return pa.concat_tables([kept, lent]).unify_dictionaries().combine_chunks()


def questions(
    rows: pa.Table, rubric: Rubric, images: Mapping[str, ImageInput], regions: Mapping[str, Region]
) -> Iterator[Asked]:
    """What to ask about the rows of some images.

    Args:
        rows: As from `judged_rows`.
        rubric: Of verdicts; one called "sentence" shows sentences too, where candidates have them.
        images: The images to ask about; rows of others are passed over.
        regions: By image.
    """
    sentences = rubric.name == "sentence"
    names = ["image", "rank", "word", "token", *(["sentence", "word_start", "word_end"] if sentences else [])]
    columns = {name: _values(rows[name]) for name in names}
    starts = np.flatnonzero(rows["rank"].to_numpy() == 1).tolist()
    for start, stop in zip(starts, [*starts, rows.num_rows][1:], strict=True):
        name = columns["image"][start]
        if name not in images:
            continue
        shown = tuple(_shown(columns, row, sentences) for row in range(start, stop))
        yield Asked(tuple(range(start, stop)), shown, ask_about(rubric, images[name], regions[name], shown))


def verdict_rows(
    rows: pa.Table, asked: Iterable[Asked], answers: Mapping[str, Answer], *, judge: str, rubric: str
) -> pa.Table:
    """The rows that were asked about, each with its verdict, or why there is none.

    Args:
        rows: As from `judged_rows`.
        asked: As from `questions`.
        answers: By question; what was never answered gives no row.
        judge: Label of the judge.
        rubric: Name of the rubric.
    """
    kept: list[int] = []
    verdicts: list[str | None] = []
    undecided: list[str | None] = []
    ids: list[str] = []
    for each in asked:
        if (answer := answers.get(each.question.id)) is None:
            continue
        content: Any = answer.content
        for row, shown in zip(each.rows, each.shown, strict=True):
            kept.append(row)
            verdicts.append(None if answer.undecided else content[each.question.number_of(shown)])
            undecided.append(answer.undecided)
            ids.append(each.question.id)
    table = rows.take(pa.array(kept, pa.int64()))
    added = {
        "judge": pa.array([judge] * len(kept), pa.string()),
        "rubric": pa.array([rubric] * len(kept), pa.string()),
        "verdict": pa.array(verdicts, pa.string()),
        "undecided": pa.array(undecided, pa.string()),
        "question": pa.array(ids, pa.string()),
    }
    names = VERDICTS_TABLE.names
    return pa.table([added[name] if name in added else table[name] for name in names], names=names).cast(VERDICTS_TABLE)


def _places(rows: pa.Table) -> list[dict[str, Any]]:
    """Where each image's judged patch lies, once per image."""
    names = ["image", "tile", "row", "column", "position"]
    found: list[dict[str, Any]] = rows.select(names).group_by(names).aggregate([]).to_pylist()
    return found


def _shown(columns: Mapping[str, Sequence[Any]], row: int, sentences: bool) -> Shown:
    # A word may be a blank alone; its piece can be seen.
    word = columns["word"][row].strip() or columns["token"][row]
    if not sentences or columns["sentence"][row] is None:
        return Shown(word)
    return Shown(word, columns["sentence"][row], (columns["word_start"][row], columns["word_end"][row]))


def _values(column: pa.ChunkedArray) -> list[Any]:
    plain = column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column
    found: list[Any] = plain.to_pylist()
    return found
