"""Region-like phrases, with the variety of real ones, for the benchmarks; the words come from a corpus at run time.

Real ones: people describe some fifty regions of a photograph, in about five words each. A few words are very
frequent and thousands are rare; phrases of one photograph share their things; and the corpus of the paper holds
each phrase once, 2.99 million of them from about 5.4 million descriptions.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

# The most frequent words of region descriptions are everyday ones; what the corpus gives follows after them.
_THINGS = """man woman tree window building sign shirt sky wall person street table grass car hair chair boy girl
train plate dog water bus head leaf cat hand light door road sidewalk clock pole fence floor giraffe horse elephant
snow hat field wave board handle glass pizza bench truck cloud flower sheep wheel people jacket food bear""".split()
_ATTRIBUTES = """white black blue green brown red yellow large small gray wooden silver tall metal orange dark pink
long young round old standing sitting parked open bare clear bright striped""".split()
_ACTIONS = """standing sitting wearing walking holding riding hanging growing parked lying looking eating playing
flying driving""".split()
_RELATIONS = """on in of with behind near under above against by over inside around beside across along between
below beneath past through among toward beyond outside underneath""".split()
_SIDES = "side top back front edge end bottom middle corner part".split()
_NUMBERS = "two three four several some many five six".split()

_FUNCTION = set(
    """a an the and or but of to in on at by for with from as is was are were be been has have had that which who
    whose it its his her their this these those not no so into over under after before during while when than then
    can could will would may might must should do does did he she they we you i my your our all each every both any
    such more most very too also only just about between through through against among up down out off""".split()
)
_DETERMINERS = {"the", "a", "an", "his", "her", "its", "their"}


@dataclass(frozen=True)
class Inventory:
    """Words by part of speech, the most frequent first."""

    things: list[str]
    attributes: list[str]
    actions: list[str]


def inventory(sentences: Iterable[str]) -> Inventory:
    """Find the nouns, attributes and actions of a corpus, by the words around them.

    Between a determiner and a function word or the end of a clause stands a noun ("the lava ."); between a
    determiner and another word mostly an attribute ("the slow lava"). Words in -ing that follow a noun are actions.
    """
    nouns, attributes, actions = Counter[str](), Counter[str](), Counter[str]()
    for sentence in sentences:
        words = re.findall(r"[a-z]+|[.,;]", sentence.lower())
        for before, word, after in zip(words, words[1:], [*words[2:], "."], strict=False):
            if len(word) < 3 or word in _FUNCTION:
                continue
            if before in _DETERMINERS:
                (nouns if after in _FUNCTION or not after.isalpha() else attributes)[word] += 1
            elif word.endswith("ing") and len(word) > 5 and before not in _FUNCTION:
                actions[word] += 1

    def first(known: list[str], found: Counter[str], other: Counter[str]) -> list[str]:
        rest = [word for word, count in found.most_common() if count >= 2 and count > 2 * other[word]]
        return list(dict.fromkeys([*known, *rest]))

    return Inventory(
        things=first(_THINGS, nouns, attributes),
        attributes=first(_ATTRIBUTES, attributes, nouns),
        actions=first(_ACTIONS, actions, nouns + attributes)[:400],
    )


def descriptions(words: Inventory, seed: int = 0) -> Iterator[str]:
    """Describe scenes without end; phrases repeat themselves, as those of people do.

    A scene has twenty things with two attributes each, every thing next to one that it often goes with, and fifty
    phrases are said of it by one person with one habit of capitals and full stops. Words follow a Zipf-Mandelbrot
    law. Of 5.4 million phrases 60 % are new, and 9,000 words come fifteen times or more; of as many real ones 55 %
    are new, and some 10,000 words come so often.
    """
    rng = random.Random(seed)
    things, attributes, actions, relations = (
        _Zipf(rng, known, shift, power)
        for known, shift, power in (
            (words.things, 10, 1.35),
            (words.attributes, 1.5, 1.6),
            (words.actions, 1.0, 1.6),
            (_RELATIONS, 0.3, 1.7),
        )
    )
    while True:
        capitals, stops = rng.random() < 0.25, rng.random() < 0.1
        row = list(accumulate(range(19), lambda thing, _: things.beside(thing), initial=things.draw()))
        scene = [(thing, attributes.beside(thing), attributes.beside(thing)) for thing in row]
        for _ in range(50):
            said = _say(rng, scene, actions, relations) + (" in the background" if rng.random() < 0.06 else "")
            yield (said[0].upper() + said[1:] if capitals else said) + ("." if stops else "")


class _Zipf:
    """Words drawn with a chance of (rank + shift) to the power of minus `power`."""

    def __init__(self, rng: random.Random, words: list[str], shift: float, power: float) -> None:
        self._rng, self._words = rng, words
        self._below = list(accumulate((rank + shift) ** -power for rank in range(1, len(words) + 1)))
        self._usual: dict[str, list[str]] = {}

    def draw(self) -> str:
        return self._rng.choices(self._words, cum_weights=self._below)[0]

    def beside(self, word: str) -> str:
        """Seven times in ten one of the four that usually go with a word."""
        if self._rng.random() < 0.3:
            return self.draw()
        if word not in self._usual:
            self._usual[word] = [self.draw() for _ in range(4)]
        return self._rng.choice(self._usual[word])


def _say(rng: random.Random, scene: list[tuple[str, str, str]], actions: _Zipf, relations: _Zipf) -> str:
    at = rng.randrange(len(scene) - 1)
    thing, other = scene[at : at + 2]
    form = rng.random()
    if form < 0.20:
        return _named(rng, thing, attributes=0.85)
    if form < 0.54:
        return f"{_named(rng, thing)} {relations.draw()} {_named(rng, other)}"
    if form < 0.65:
        return f"{_named(rng, thing, attributes=0)} is {thing[1]}"
    if form < 0.75:
        return f"{_named(rng, thing)} {actions.draw()} {relations.draw()} {_named(rng, other)}"
    if form < 0.82:
        return f"{_named(rng, thing, attributes=0.2)} {actions.draw()} {_named(rng, other)}"
    if form < 0.88:
        return f"{_named(rng, thing, attributes=0)}'s {other[1]} {other[0]}"
    if form < 0.92:
        return f"{thing[1]} and {thing[2]} {thing[0]}"
    if form < 0.96:
        return f"{rng.choice(_NUMBERS)} {thing[0]}s {relations.draw()} {_named(rng, other)}"
    return f"{_named(rng, thing)} on the {rng.choice(_SIDES)} of {_named(rng, other, attributes=0)}"


def _named(rng: random.Random, thing: tuple[str, str, str], attributes: float = 0.45) -> str:
    article = rng.choices(("", "the ", "a "), (0.35, 0.35, 0.3))[0]
    described = f"{thing[1]} {thing[0]}" if rng.random() < attributes else thing[0]
    return article.replace("a ", "an ") + described if described[0] in "aeiou" else article + described
