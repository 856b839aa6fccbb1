"""How well a description says what is in an image: exactly where that is known, else by a judge.

By truth, words are counted: things, their colors, the place, what is written. By a judge, a description is taken apart
into claims, each held against the picture, and those of a reference against the description; or it is given one mark.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from patchlens.evaluation.intervals import Array, clustered
from patchlens.evaluation.question import Question, Shown
from patchlens.evaluation.rubric import Rubric, find_rubric
from patchlens.evaluation.truth import CaptionTruth, Vocabulary
from patchlens.evaluation.verdict import Answer
from patchlens.inputs.image import ImageInput

__all__ = [
    "WHAT",
    "CaptionCounts",
    "CaptionScores",
    "ClaimScore",
    "Described",
    "Marked",
    "Measure",
    "Overlap",
    "caption_counts",
    "caption_scores",
    "claim_questions",
    "claim_scores",
    "mark_questions",
    "marks",
    "reference_of",
    "support_questions",
]

WHAT = ("things", "colors", "places", "written")
"""What a description is asked for: see `CaptionCounts`."""

_NUMBERS = {
    word: number
    for number, word in enumerate(("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), 1)
}
_IRREGULAR = {
    "children": "child", "feet": "foot", "geese": "goose", "mice": "mouse", "people": "person", "teeth": "tooth",
}  # fmt: skip
_ENDINGS = (("s", ""), ("es", ""), ("ies", "y"), ("ves", "f"), ("ves", "fe"), ("men", "man"), ("i", "us"))
"""Of plural forms, and what the singular has in their place."""


# By truth


@dataclass(frozen=True)
class Overlap:
    """How what is said of an image agrees with what is there."""

    there: int
    """What should be said."""
    said: int
    """What is said and could be true or false."""
    both: int
    """Said and there; two alike count twice if they are said twice."""


@dataclass(frozen=True)
class CaptionCounts:
    """What one description gets right."""

    things: Overlap
    """Things, by their nouns in the singular or the plural."""
    colors: Overlap
    """Things with their color directly before them; what is said of one whose color is not worth saying is left out."""
    places: Overlap
    """The place."""
    written: Overlap
    """Words that stand in the image; said are those that could stand in one."""


@dataclass(frozen=True)
class Measure:
    """A share with its 95 % interval, for which images are independent; prints as `86.1 % [84.0, 88.0]`."""

    hits: int
    trials: int
    low: float
    """Lower end of the interval, see `intervals.clustered`."""
    high: float
    """Upper end."""
    images: int
    """Images with a trial."""

    @property
    def share(self) -> float | None:
        """Hits over trials, in [0, 1]; None without trials."""
        return self.hits / self.trials if self.trials else None

    def __str__(self) -> str:
        if self.share is None:
            return "–"
        return f"{100 * self.share:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True)
class CaptionScores:
    """What descriptions get right, image by image and over all of them."""

    counts: tuple[CaptionCounts, ...]
    """One per image."""

    def recall(self, what: str) -> Measure:
        """Of what is there, how much is said; `what` is one of `WHAT`."""
        there, _, both = self._columns(what)
        return _measure(both, there)

    def precision(self, what: str) -> Measure:
        """Of what is said, how much is there."""
        _, said, both = self._columns(what)
        return _measure(both, said)

    def f1(self, what: str) -> Measure:
        """The harmonic mean of both, a share too: twice what is said and there, over what is there and what is said."""
        there, said, both = self._columns(what)
        return _measure(2 * both, there + said)

    @property
    def misread(self) -> Measure:
        """Of the images in which nothing is written, those in which a word is read."""
        there, said, _ = self._columns("written")
        return _measure((there == 0) & (said > 0), there == 0)

    def _columns(self, what: str) -> tuple[Array, Array, Array]:
        found: list[Overlap] = [getattr(count, what) for count in self.counts]
        there, said, both = np.array([(f.there, f.said, f.both) for f in found], dtype=int).reshape(-1, 3).T
        return there, said, both


def caption_scores(
    pairs: Iterable[tuple[CaptionTruth, str]], *, written: Collection[str] | None = None
) -> CaptionScores:
    """Compare descriptions with what is known of their images.

    Args:
        pairs: The truth of each image, and what was said of it.
        written: All words that could stand in such an image; None for those that stand in any of these.

    Example:
        >>> world = Vocabulary(frozenset({"car", "owl"}), frozenset({"red"}), frozenset({"park"}))
        >>> truth = CaptionTruth((("car", "red"), ("owl", None)), "park", (), world)
        >>> found = caption_scores([(truth, "Two red cars in a park.")])
        >>> [found.counts[0].things, found.recall("colors").share]
        [Overlap(there=2, said=2, both=1), 1.0]
    """
    held = list(pairs)
    known = {word for truth, _ in held for word in truth.written} if written is None else written
    return CaptionScores(tuple(caption_counts(truth, text, known) for truth, text in held))


def caption_counts(truth: CaptionTruth, text: str, written: Collection[str]) -> CaptionCounts:
    """Count what one description gets right, by its words alone: "no car" says a car.

    "Two red cars" says a car twice, and so does "cars"; a number counts with at most one word besides colors between.

    Args:
        truth: What is known of the image.
        text: The description.
        written: All words that could stand in such an image.
    """
    words, vocabulary = _words(text), truth.vocabulary
    said, colored = _said(words, vocabulary)
    there = Counter(thing for thing, _ in truth.things)
    with_color = Counter((thing, color) for thing, color in truth.things if color is not None)
    plain = there.keys() - {thing for thing, _ in with_color}
    asked = Counter({pair: count for pair, count in colored.items() if pair[0] not in plain})
    places = {place for *_, place, _ in _found(words, vocabulary.places)} if truth.place else set()
    line, standing = _line(text), {_line(word) for word in truth.written}
    read = {word for word in standing.union(map(_line, written)) if word in line}
    return CaptionCounts(
        things=_overlap(there, said),
        colors=_overlap(with_color, asked),
        places=_overlap(Counter([truth.place] if truth.place else []), Counter(places)),
        written=_overlap(Counter(standing), Counter(read)),
    )


def reference_of(truth: CaptionTruth) -> str:
    """What is known of an image in plain sentences, to take apart into claims where nobody has described it."""
    seen: set[tuple[str, str | None]] = set()
    sentences = []
    for thing, color in truth.things:
        phrase = thing if color is None else f"{color} {thing}"
        article = "another" if (thing, color) in seen else "an" if phrase[0] in "aeiou" else "a"
        sentences.append(f"There is {article} {phrase}.")
        seen.add((thing, color))
    sentences += [f"The place is a {truth.place}."] if truth.place else []
    sentences += [f'The word "{word}" is written there.' for word in truth.written]
    return " ".join(sentences)


def _measure(hits: Array, trials: Array) -> Measure:
    return Measure(int(hits.sum()), int(trials.sum()), *clustered(hits, trials), images=int((trials > 0).sum()))


def _overlap(there: Counter[Any], said: Counter[Any]) -> Overlap:
    return Overlap(there.total(), said.total(), (there & said).total())


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _line(text: str) -> str:
    """The words between blanks, so that one line holds another's words whole or not at all."""
    return f" {' '.join(_words(text))} "


def _said(words: Sequence[str], vocabulary: Vocabulary) -> tuple[Counter[str], Counter[tuple[str, str]]]:
    """How often each thing is said, and each with a color before it."""
    things: Counter[str] = Counter()
    colored: Counter[tuple[str, str]] = Counter()
    before = 0
    for start, end, thing, plural in _found(words, vocabulary.things):
        count = _number(words[before:start], vocabulary.colors) or (2 if plural else 1)
        things[thing] += count
        if start > before and words[start - 1] in vocabulary.colors:
            colored[thing, words[start - 1]] += count
        before = end
    return things, colored


def _number(before: Sequence[str], colors: frozenset[str]) -> int | None:
    """The number that belongs to a noun, given the words before it."""
    near = [word for word in before if word not in colors][-2:]
    for word in reversed(near):
        if word in _NUMBERS:
            return _NUMBERS[word]
        if word.isdecimal() and len(word) <= 2:  # more is a year, or a house
            return int(word) or None
    return None


def _found(words: Sequence[str], nouns: frozenset[str]) -> Iterator[tuple[int, int, str, bool]]:
    """Nouns of one or more words where they stand, the longest first: start, end, the noun, whether in the plural."""
    phrases = _phrases(nouns)
    longest = max(map(len, phrases), default=0)
    place = 0
    while place < len(words):
        pieces = [tuple(words[place : place + length]) for length in range(min(longest, len(words) - place), 0, -1)]
        known = ((piece, form) for piece in pieces for form in _forms(piece) if form in phrases)
        piece, form = next(known, ((), ()))
        if piece:
            yield place, place + len(piece), phrases[form], form != piece
        place += max(1, len(piece))


@cache
def _phrases(nouns: frozenset[str]) -> dict[tuple[str, ...], str]:
    return {tuple(_words(noun)): noun for noun in nouns}


def _forms(piece: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Words as they stand, then what they may be the plural of."""
    *before, last = piece
    yield piece
    if last in _IRREGULAR:
        yield (*before, _IRREGULAR[last])
    for ending, instead in _ENDINGS:
        if last.endswith(ending):
            yield (*before, last.removesuffix(ending) + instead)


# By a judge


@dataclass(frozen=True, eq=False)
class Described:
    """A description, and what it is held against."""

    image: ImageInput
    """What it is of; no two have one name."""
    caption: str
    """What was said."""
    reference: str | None = None
    """What should be said; None where nobody knows, and then there is no recall."""


@dataclass(frozen=True)
class ClaimScore:
    """What a judge made of one description's claims."""

    image: str
    """The image's name."""
    said: tuple[tuple[str, bool], ...] = ()
    """The description's claims, each with whether the picture supports it."""
    wanted: tuple[tuple[str, bool], ...] = ()
    """The reference's claims, each with whether the description supports it."""
    undecided: str | None = None
    """One of `verdict.UNDECIDED` if any of its questions was left undecided; then nothing else is known."""

    @property
    def precision(self) -> float | None:
        """Share of its claims that the picture supports, in [0, 1]; None if it claims nothing, or undecided."""
        return _share(self.said)

    @property
    def recall(self) -> float | None:
        """Share of the reference's claims that it supports, in [0, 1]; None without any, or undecided."""
        return _share(self.wanted)

    @property
    def f1(self) -> float | None:
        """The harmonic mean of both; 0 for a description that claims nothing, None without recall."""
        if self.recall is None:
            return None
        precision = self.precision or 0.0
        return 2 * precision * self.recall / (precision + self.recall) if precision and self.recall else 0.0


@dataclass(frozen=True)
class Marked:
    """What a judge gave one description."""

    image: str
    """The image's name."""
    mark: int | None
    """From 1 to 10; None if undecided."""
    undecided: str | None = None
    """One of `verdict.UNDECIDED`; None if decided."""


def claim_questions(described: Sequence[Described], rubrics: Mapping[str, Rubric] | None = None) -> list[Question]:
    """The first round: take every description and every reference apart into claims.

    Drive it with `ask_all(judge, claim_questions(described))`, then `ask_all(judge, support_questions(described,
    answers))`, then `claim_scores` with the answers of both rounds.

    Args:
        described: Descriptions; of an empty one nothing is asked.
        rubrics: "claims" and "support" with texts of one's own; None for those that ship.

    Reference:
        Precision, recall and F1 of a description's smallest statements are what DCScore means (arXiv 2503.07906, which
        calls them primitive information units). We depart in three things. The judge takes references apart, not
        people. Recall is of the reference's claims alone, where DCScore also credits true ones that the reference
        lacks. Claims of every kind count alike.
    """
    texts = [text for each in described for text in (each.caption, each.reference or "")]
    return [_claims(text, rubrics) for text in texts if text.strip()]


def support_questions(
    described: Sequence[Described], answers: Mapping[str, Answer], rubrics: Mapping[str, Rubric] | None = None
) -> list[Question]:
    """The second round: hold the claims against the picture, and the reference's against the description.

    Args:
        described: As for `claim_questions`.
        answers: Of the first round, by question id; nothing is asked about an image of which one is undecided or
            missing.
        rubrics: As for `claim_questions`.
    """
    questions: list[Question] = []
    for each in described:
        with suppress(_Open):
            questions += [question for question in _held(each, answers, rubrics) if _worth_asking(question)]
    return questions


def claim_scores(
    described: Sequence[Described], answers: Mapping[str, Answer], rubrics: Mapping[str, Rubric] | None = None
) -> tuple[ClaimScore, ...]:
    """What came of both rounds, one score per image; an image of which a question was not asked has none.

    Args:
        described: As for `claim_questions`.
        answers: Of both rounds, by question id.
        rubrics: As for `claim_questions`.
    """
    scores = []
    for each in described:
        try:
            said, wanted = (_supported(question, answers) for question in _held(each, answers, rubrics))
            scores.append(ClaimScore(each.image.name, said, wanted))
        except _Open as found:
            if found.why is not None:
                scores.append(ClaimScore(each.image.name, undecided=found.why))
    return tuple(scores)


def mark_questions(described: Sequence[Described], rubrics: Mapping[str, Rubric] | None = None) -> list[Question]:
    """Ask for a mark from 1 to 10 for each description.

    Args:
        described: Descriptions; references play no part.
        rubrics: "mark" with a text of one's own; None for that which ships.

    Reference:
        The code of arXiv 2602.00462 asks for such a mark, and its paper calls it DCScore, which it is not: see
        `claim_questions`. Our text is another, so marks are not comparable with the published ones.
    """
    rubric = _rubric("mark", rubrics)
    return [Question(rubric, each.image, texts={"description": each.caption}) for each in described]


def marks(
    described: Sequence[Described], answers: Mapping[str, Answer], rubrics: Mapping[str, Rubric] | None = None
) -> tuple[Marked, ...]:
    """The marks, one per image whose question has an answer; arguments as for `mark_questions`."""
    asked = zip(described, mark_questions(described, rubrics), strict=True)
    given = [(each.image.name, answers[question.id]) for each, question in asked if question.id in answers]
    return tuple(Marked(image, _whole_number(answer.content), answer.undecided) for image, answer in given)


class _Open(Exception):
    """A question without a decided answer: why it is undecided, or None where it was not asked."""

    def __init__(self, why: str | None) -> None:
        super().__init__(why)
        self.why = why


_shipped = cache(find_rubric)


def _rubric(name: str, rubrics: Mapping[str, Rubric] | None) -> Rubric:
    return (rubrics or {}).get(name) or _shipped(name)


def _claims(text: str, rubrics: Mapping[str, Rubric] | None) -> Question:
    return Question(_rubric("claims", rubrics), texts={"description": text})


def _held(
    each: Described, answers: Mapping[str, Answer], rubrics: Mapping[str, Rubric] | None
) -> tuple[Question, Question]:
    """The claims of a description held against the picture, and its reference's against the description."""
    texts = [each.caption, each.reference or ""]
    found = [_content(_claims(text, rubrics), answers) if text.strip() else [] for text in texts]
    said, wanted = (tuple(Shown(claim) for claim in claims) for claims in found)
    support = _rubric("support", rubrics)
    return (
        Question(support, each.image, candidates=said, texts={"evidence": ""}),
        Question(support, candidates=wanted, texts={"evidence": each.caption}),
    )


def _worth_asking(question: Question) -> bool:
    """Whether there are claims, and evidence for any of them."""
    return bool(question.candidates) and (question.image is not None or bool(question.texts["evidence"].strip()))


def _supported(question: Question, answers: Mapping[str, Answer]) -> tuple[tuple[str, bool], ...]:
    claims = [claim.word for claim in question.candidates]
    decided = _content(question, answers) if _worth_asking(question) else [False] * len(claims)
    return tuple(zip(claims, decided, strict=True))


def _content(question: Question, answers: Mapping[str, Answer]) -> Any:
    answer = answers.get(question.id)
    if answer is None or answer.undecided is not None:
        raise _Open(answer.undecided if answer else None)
    return answer.content


def _share(claims: Collection[tuple[str, bool]]) -> float | None:
    return sum(supported for _, supported in claims) / len(claims) if claims else None


def _whole_number(content: Any) -> int | None:
    return None if content is None else int(content)
