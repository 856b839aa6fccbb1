"""What a judge is asked: a rubric, an image with a region, the candidates. It says nothing of lens, layer or rank.

Two questions with the same content have the same id and are asked once.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from patchlens.errors import OptionError
from patchlens.evaluation.region import Region
from patchlens.inputs.image import ImageInput

if TYPE_CHECKING:
    from patchlens.evaluation.rubric import Rubric

__all__ = ["Question", "Shown", "ask_about"]

_SIDE = 512
"""Pixels of the longer side of the picture that a judge sees, as in arXiv 2602.00462, App. C."""
_LEAST_CROP = 96
"""A crop is shown at this side at least: less than that, people and models see only blur."""
_RED = (255, 0, 0)


@dataclass(frozen=True)
class Shown:
    """A candidate as a judge sees it."""

    word: str
    """The word; the raw token where it decodes to nothing readable."""
    sentence: str | None = None
    """The sentence that it stands in, for rubrics that show it; None otherwise."""
    span: tuple[int, int] | None = None
    """Start and end of the word in the sentence, in characters."""


@dataclass(frozen=True, eq=False)
class Question:
    """One thing to be judged. Made by `ask_about`, or by hand for rubrics without candidates."""

    rubric: "Rubric"
    """What the judge is to do."""
    image: ImageInput | None = None
    """What it is shown; None for rubrics on text alone."""
    region: Region | None = None
    """Which part of it is meant; None for all of it."""
    candidates: tuple[Shown, ...] = ()
    """Different ones, in an order that tells nothing."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """What fills the other places of the rubric, a caption for instance."""

    @cached_property
    def text(self) -> str:
        """The rubric with this question filled in."""
        return self.rubric.fill(self)

    @cached_property
    def id(self) -> str:
        """Hash of all that a judge is shown: equal for equal questions, whoever asks them."""
        shown = {
            "rubric": self.rubric.hash,
            "image": None if self.image is None else self.image.sha256,
            "box": None if self.region is None else [round(end, 3) for end in self.region.box],
            "text": self.text,
        }
        return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:32]

    def number_of(self, candidate: Shown) -> int:
        """Which of the candidates, counted from 0, stands for this one; case is ignored."""
        return self._numbers[_key(candidate)]

    @cached_property
    def _numbers(self) -> dict[tuple[object, ...], int]:
        return {_key(candidate): number for number, candidate in enumerate(self.candidates)}

    @property
    def marked(self) -> Image.Image:
        """The whole image with a red frame around the region, its longer side `_SIDE` pixels.

        Raises:
            OptionError: There is no image.
        """
        pixels = self._pixels()
        scale = _SIDE / max(pixels.size)
        shown = pixels.resize((max(1, round(pixels.width * scale)), max(1, round(pixels.height * scale))))
        if self.region is None:
            return shown
        top, left, bottom, right = (end * scale for end in self.region.box)
        veil = Image.new("RGBA", shown.size, (0, 0, 0, 0))
        draw = ImageDraw.Draw(veil)
        draw.rectangle((left, top, right, bottom), fill=(*_RED, 30), outline=(*_RED, 255), width=3)
        return Image.alpha_composite(shown.convert("RGBA"), veil).convert("RGB")

    @property
    def crop(self) -> Image.Image:
        """The region alone, without a frame; small ones are enlarged to a side of `_LEAST_CROP` pixels.

        Raises:
            OptionError: There is no image, or no region.
        """
        if self.region is None:
            raise OptionError("This question is about the whole image and has no region to show alone.")
        top, left, bottom, right = self.region.box
        right, bottom = max(right, left + 1), max(bottom, top + 1)
        cut = self._pixels().crop((round(left), round(top), round(right), round(bottom)))
        if (factor := _LEAST_CROP / max(cut.size)) > 1:
            cut = cut.resize((max(1, round(cut.width * factor)), max(1, round(cut.height * factor))))
        return cut

    def _pixels(self) -> Image.Image:
        if self.image is None:
            raise OptionError("This question has no image to show. Ask it with a rubric on text alone.")
        return self.image.pixels


def ask_about(rubric: "Rubric", image: ImageInput, region: Region, candidates: Iterable[Shown]) -> Question:
    """A question on a region's candidates: each different one once, in an order that depends on them alone.

    So the judge cannot see which was ranked first, and layers or lenses that say the same words share one answer.
    """
    different = {_key(candidate): candidate for candidate in reversed(list(candidates))}
    ordered = sorted(different, key=lambda key: hashlib.sha256(repr(key).encode()).digest())
    return Question(rubric, image, region, tuple(different[key] for key in ordered))


def _key(candidate: Shown) -> tuple[object, ...]:
    return candidate.word.strip().lower(), candidate.sentence, candidate.span
