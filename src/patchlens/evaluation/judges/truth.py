"""Exact truth as a judge, where somebody knows what is in every patch."""

from collections.abc import Mapping
from typing import ClassVar

from patchlens.errors import OptionError
from patchlens.evaluation.judge import Judge
from patchlens.evaluation.question import Question
from patchlens.evaluation.region import Region
from patchlens.evaluation.truth import PatchTruth, SceneTruth
from patchlens.evaluation.verdict import Answer

__all__ = ["TruthJudge"]


class TruthJudge(Judge):
    """Compares words with what is known of the region's patches, whole and without regard to case.

    A thing, a color or a written word of any patch of the region is concrete; the kind of a thing there is abstract;
    the place, and what stands elsewhere in the image, is global; all else is unrelated. It knows no synonyms and no
    parts of things, so it is stricter than a person.

    Args:
        truths: What is true, by the image's name.
        pieces: Take a piece of at least so many letters with which a true word begins for that word; 0 for whole words
            alone. Lenses that know only single tokens cannot say a word that takes several.
    """

    name: ClassVar[str] = "truth"
    rubrics: ClassVar[tuple[str, ...]] = ("patch", "sentence")
    kept: ClassVar[bool] = False

    def __init__(self, truths: Mapping[str, SceneTruth], *, pieces: int = 0) -> None:
        if pieces < 0:
            raise OptionError(f"Pieces of at least {pieces} letters: expected 0 for none, or a number of letters.")
        self.truths = truths
        self.pieces = pieces

    @property
    def label(self) -> str:
        """Says whether pieces count."""
        return f"truth, pieces of {self.pieces} letters" if self.pieces else "truth"

    def ask(self, question: Question) -> Answer:
        """Look every candidate up.

        Raises:
            OptionError: Nothing is known of the image, or its truth has another grid.
        """
        if question.region is None:
            raise OptionError("The truth judge was asked about no region. Ask it with the rubrics patch or sentence.")
        about = self._about(question.region, None if question.image is None else question.image.size)
        return Answer(question.id, [self._verdict(shown.word, about) for shown in question.candidates])

    def _about(self, region: Region, size: tuple[int, int] | None) -> list[tuple[str, frozenset[str]]]:
        """The words of each verdict, the first verdict that has a word being its own."""
        truth = self.truths.get(region.image)
        if truth is None:
            raise OptionError(
                f"Nothing is known of the image {region.image!r}; truths are given for {len(self.truths)} others. "
                "Judge it with an endpoint or a model, or give its truth."
            )
        down, right = max(row for row, _ in region.cells), max(column for _, column in region.cells)
        if region.tile or down >= truth.rows or right >= truth.columns:
            raise OptionError(
                f"The region of {region.image!r} around row {region.row}, column {region.column} of tile {region.tile} "
                f"lies outside its truth, one grid of {truth.rows} × {truth.columns}. Use the truth for this grid."
            )
        if size is not None and not _covers(truth, region, size):
            raise OptionError(
                f"The region of {region.image!r} around row {region.row}, column {region.column} covers the pixels "
                f"{', '.join(f'{end:.0f}' for end in region.box)}, which are not those of the same patches in its "
                f"truth, a grid of {truth.rows} × {truth.columns} over {size[0]} × {size[1]} pixels. Use the truth for "
                "this model's grid."
            )
        here = [truth.at(row, column) for row, column in region.cells]
        whole = truth.patches
        return [
            ("concrete", _words(here, "thing", "color", "word")),
            ("abstract", _words(here, "kind")),
            ("global", _words(whole, "place", "thing", "color", "word", "kind")),
        ]

    def _verdict(self, word: str, about: list[tuple[str, frozenset[str]]]) -> str:
        said = word.strip().lower()
        for verdict, words in about:
            if said in words:
                return verdict
        if self.pieces and len(said) >= self.pieces:
            for verdict, words in about:
                if any(true.startswith(said) for true in words):
                    return verdict
        return "unrelated"


def _covers(truth: SceneTruth, region: Region, size: tuple[int, int]) -> bool:
    """Whether a region's patches are those of the truth, whose grid covers the whole image, up to half a patch."""
    height, width = size[0] / truth.rows, size[1] / truth.columns
    (first, left), (last, right) = region.cells[0], region.cells[-1]
    expected = (first * height, left * width, (last + 1) * height, (right + 1) * width)
    steps = (height, width, height, width)
    return all(abs(end - other) <= step / 2 for end, other, step in zip(region.box, expected, steps, strict=True))


def _words(patches: "list[PatchTruth] | tuple[PatchTruth, ...]", *kinds: str) -> frozenset[str]:
    return frozenset().union(*(getattr(patch, kind) for patch in patches for kind in kinds))
