"""What is said in the picturebook world: captions, descriptions, questions, facts and stories.

Every sentence comes from our own templates, filled from a scene or from the tables of `world.py` by a seeded
generator. Nothing here knows pixels or models.

    sentences(seed)     an endless stream of single sentences: the corpus of the embedded bank
    documents(seed)     an endless stream of texts that must be read in context: what the language model learns from
    caption(scene)      what the whole VLM is taught to say of a picture
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from patchlens.picturebook.scene import CANVAS, FIRST_SCENE, Scene, SceneSign, SceneThing, sample_scene
from patchlens.picturebook.world import (
    COLORS,
    KINDS,
    PLACES,
    SIGN_WORDS,
    THINGS,
    indefinite,
    plural,
)

__all__ = [
    "DESCRIBE",
    "Document",
    "Exchange",
    "caption",
    "caption_exchange",
    "documents",
    "exchanges",
    "sentences",
]

DESCRIBE = "Describe this image."
"""The prompt that asks for a caption with every thing, its color, the place and the sign."""

_PEOPLE = (
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Ida", "Jonas",
    "Kira", "Leo", "Maya", "Nils", "Olga", "Paul", "Rosa", "Sam", "Tess", "Viktor",
    "the teacher", "the old man", "my sister", "the baker", "the farmer", "our neighbor", "the girl", "the boy",
)  # fmt: skip
_TIMES = (
    "in the morning", "at noon", "before lunch", "after school", "late at night", "on Sunday", "last summer",
    "in winter", "yesterday", "every day", "at the end of the day", "after the rain",
)  # fmt: skip
_MOODS = ("happy", "tired", "proud", "quiet", "curious", "hungry", "calm", "busy", "brave", "shy")
_NUMBERS = ("no", "one", "two", "three", "four")


@dataclass(frozen=True)
class Exchange:
    """A request about a picture and its answer."""

    request: str
    answer: str


@dataclass(frozen=True)
class Document:
    """A text for the language model: something to read, then requests that only the reading answers."""

    reading: str
    exchanges: tuple[Exchange, ...]

    @property
    def parts(self) -> tuple[tuple[str, bool], ...]:
        """The text in pieces, each with whether it is an answer."""
        pieces: list[tuple[str, bool]] = [(self.reading, False)]
        for exchange in self.exchanges:
            pieces += [(f"\n{exchange.request}\n", False), (exchange.answer, True)]
        return tuple(pieces)


# ---------------------------------------------------------------------------------------------------------------
# Phrases


def _noun(thing: SceneThing, rng: random.Random | None = None, size: float = 0.0, color: float = 1.0) -> str:
    """The noun with its color and, by chance, its size: `small red car`."""
    words = [thing.name]
    drawn = rng.random() if rng else 0.0
    if THINGS[thing.name].recolorable and drawn < color:
        words.insert(0, thing.color)
    if rng and rng.random() < size and (word := _size_word(thing)):
        words.insert(0, word)
    return " ".join(words)


def _size_word(thing: SceneThing) -> str:
    return "small" if thing.size <= 42 else "big" if thing.size >= 58 else ""


def _side(x: int) -> str:
    third = CANVAS / 3
    return "on the left" if x < third else "on the right" if x > 2 * third else "in the middle"


def _height_word(y: int) -> str:
    return "at the top" if y < CANVAS * 0.36 else "at the bottom" if y > CANVAS * 0.7 else ""


def _is(thing: SceneThing) -> str:
    return "are" if thing.name == "scissors" else "is"


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


# ---------------------------------------------------------------------------------------------------------------
# Captions and other answers


def caption(scene: Scene, rng: random.Random) -> str:
    """One caption with every thing from left to right, its color, the place and the sign's word."""
    things = [indefinite(_noun(t)) for t in scene.left_to_right if isinstance(t, SceneThing)]
    at = PLACES[scene.place].at
    forms = [f"{_joined(things)} {at}", f"there is {_joined(things)} {at}"]
    text = _sentence(rng.choices(forms, weights=(3, 1))[0])
    return f"{text} {_sign_sentence(scene.sign)}" if scene.sign else text


def _sign_sentence(sign: SceneSign) -> str:
    return f"A sign says {sign.word}."


def _detailed(scene: Scene, rng: random.Random) -> str:
    """Several sentences: the place, each thing with size and position, relations, the sign."""
    parts = [f"This is {indefinite(scene.place)}."]
    for element in scene.left_to_right:
        if isinstance(element, SceneThing):
            parts.append(_sentence(f"{_side(element.x)} there is {indefinite(_noun(element, rng, size=1.0))}"))
        else:
            parts.append(_sentence(f"{_side(element.x)} a sign says {element.word}"))
    return " ".join(parts)


def exchanges(scene: Scene, rng: random.Random, count: int) -> tuple[Exchange, ...]:
    """Different requests about a scene with their answers; a request for the caption is always the first.

    Args:
        scene: What is asked about.
        rng: Chooses requests and wording.
        count: How many exchanges, at least 1.
    """
    asked = [Exchange(DESCRIBE, caption(scene, rng))]
    makers = [
        _ask_detail,
        _ask_color,
        _ask_side,
        _ask_place,
        _ask_presence,
        _ask_sign,
        _ask_kind,
        _ask_relation,
    ]
    makers += [_ask_list, _ask_number, _ask_presence, _ask_color]
    rng.shuffle(makers)
    for maker in makers:
        if len(asked) == count:
            break
        if exchange := maker(scene, rng):
            asked.append(exchange)
    return tuple(asked)


def caption_exchange(scene: Scene, rng: random.Random, *, detailed: bool = False) -> Exchange:
    """What the projector learns from: a request for a caption, or a detailed one, with its answer."""
    return _ask_detail(scene, rng) if detailed else Exchange(DESCRIBE, caption(scene, rng))


def _ask_detail(scene: Scene, rng: random.Random) -> Exchange:
    return Exchange("Describe this image in detail.", _detailed(scene, rng))


def _ask_list(scene: Scene, rng: random.Random) -> Exchange | None:
    names = [indefinite(t.name) for t in scene.left_to_right if isinstance(t, SceneThing)]
    return Exchange("What do you see?", _sentence(f"I see {_joined(names)}"))


def _ask_number(scene: Scene, rng: random.Random) -> Exchange | None:
    count = len(scene.things)
    answer = f"There {'is one thing' if count == 1 else f'are {_NUMBERS[count]} things'}."
    return Exchange("How many things are there?", answer)


def _ask_color(scene: Scene, rng: random.Random) -> Exchange | None:
    thing = rng.choice(scene.things)
    if sum(t.name == thing.name for t in scene.things) > 1:
        return None
    return Exchange(f"What color {_is(thing)} the {thing.name}?", f"The {thing.name} {_is(thing)} {thing.color}.")


def _ask_side(scene: Scene, rng: random.Random) -> Exchange | None:
    element = rng.choice(scene.left_to_right)
    side = _side(element.x)
    there = [e for e in scene.left_to_right if _side(e.x) == side]
    answers = [indefinite(_noun(e)) if isinstance(e, SceneThing) else f"a sign that says {e.word}" for e in there]
    return Exchange(f"What is {side}?", _sentence(_joined(answers)))


def _ask_place(scene: Scene, rng: random.Random) -> Exchange | None:
    return Exchange("Where is this?", _sentence(f"this is {PLACES[scene.place].at}"))


def _ask_presence(scene: Scene, rng: random.Random) -> Exchange | None:
    if rng.random() < 0.5:
        thing = rng.choice(scene.things)
        return Exchange(f"Is there {indefinite(thing.name)}?", _sentence(f"yes, there is {indefinite(_noun(thing))}"))
    name = rng.choice(tuple(THINGS))
    if any(t.name == name for t in scene.things):
        return None
    return Exchange(f"Is there {indefinite(name)}?", f"No, there is no {name}.")


def _ask_sign(scene: Scene, rng: random.Random) -> Exchange | None:
    answer = f"The sign says {scene.sign.word}." if scene.sign else "There is no sign."
    return Exchange("What does the sign say?", answer)


def _ask_kind(scene: Scene, rng: random.Random) -> Exchange | None:
    kind = THINGS[rng.choice(scene.things).name].kind if rng.random() < 0.75 else rng.choice(KINDS)
    names = [indefinite(_noun(t)) for t in scene.left_to_right if isinstance(t, SceneThing) and _kind(t) == kind]
    request = f"Is there any {kind}?" if kind in ("food", "furniture") else f"Is there {indefinite(kind)}?"
    return Exchange(request, _sentence(f"yes, {_joined(names)}") if names else "No.")


def _kind(thing: SceneThing) -> str:
    return THINGS[thing.name].kind


def _ask_relation(scene: Scene, rng: random.Random) -> Exchange | None:
    things = [t for t in scene.left_to_right if isinstance(t, SceneThing)]
    if len(things) < 2 or len({t.name for t in things}) < len(things):
        return None
    index = rng.randrange(len(things) - 1)
    left, right = things[index], things[index + 1]
    if rng.random() < 0.5:
        return Exchange(f"What is right of the {left.name}?", _sentence(indefinite(_noun(right))))
    return Exchange(f"What is left of the {right.name}?", _sentence(indefinite(_noun(left))))


# ---------------------------------------------------------------------------------------------------------------
# Descriptions: what someone says who looks at a scene, in any order, with repetitions


def _remarks(scene: Scene, rng: random.Random) -> list[str]:
    """Sentences about a scene; together they say everything that its caption needs."""
    remarks = _place_remarks(scene, rng)
    for thing in scene.things:
        remarks += _thing_remarks(thing, scene, rng)
    if scene.sign:
        remarks += _sign_remarks(scene.sign, rng)
    remarks += _relation_remarks(scene, rng)
    if rng.random() < 0.4:
        absent = rng.choice(tuple(THINGS))
        if all(t.name != absent for t in scene.things):
            remarks.append(_sentence(rng.choice((f"there is no {absent} here", f"I cannot see any {absent}"))))
    return remarks


def _place_remarks(scene: Scene, rng: random.Random) -> list[str]:
    place = PLACES[scene.place]
    forms = [
        f"this is {indefinite(place.name)}",
        f"we are {place.at}",
        f"the picture was made {place.at}",
        f"behind everything one sees {_joined(rng.sample(place.features, 2))}, as {place.at}",
        f"it all happens {place.at}, with {rng.choice(place.features)}",
        f"the {place.name} is {rng.choice(('quiet', 'wide', 'bright', 'empty'))} today",
    ]
    return [_sentence(form) for form in rng.sample(forms, rng.randint(1, 2))]


def _thing_remarks(thing: SceneThing, scene: Scene, rng: random.Random) -> list[str]:
    fact = THINGS[thing.name]
    full = _noun(thing, rng, size=0.5)
    side, height = _side(thing.x), _height_word(thing.y)
    where = f"{side} {height}".strip() if rng.random() < 0.5 else side
    is_ = _is(thing)
    verb = rng.choice(("stands", "can be seen", "is waiting", "is"))
    if thing.name == "scissors":
        verb = rng.choice(("lies", "can be seen", "is"))
    forms = [
        f"{indefinite(full)} {verb} {where}",
        f"{where} there is {indefinite(full)}",
        f"{rng.choice(_PEOPLE)} points at {indefinite(full)} {where}",
        f"I notice {indefinite(full)} {where}, {rng.choice(('not far from us', 'very clear', 'easy to find'))}",
        f"someone left {indefinite(full)} {where}",
        f"look, {indefinite(full)} {where}",
    ]
    more = [
        f"the {thing.name} {is_} {thing.color}",
        f"the {thing.name} {is_} {rng.choice((side, where))}",
        f"the {_noun(thing)} has {rng.choice(fact.parts)}" if is_ == "is" else f"the {thing.name} have two blades",
        f"the {_noun(thing)} {'faces left' if thing.flipped else 'faces right'}",
        f"one {'can' if is_ == 'is' else 'could'} see {rng.choice(fact.parts)} of the {thing.name}",
        f"the {thing.name} {is_} {rng.choice(('quite', 'really'))} {_size_word(thing) or 'ordinary'}",
        f"{rng.choice(_PEOPLE)} says that the {thing.name} {is_} {thing.color}",
        f"{rng.choice(_PEOPLE)} likes the {_noun(thing)} {side}",
        f"{rng.choice(_PEOPLE)} sees {indefinite(_noun(thing))} too",
        f"yes, it is really {indefinite(_noun(thing))}",
    ]
    chosen = [rng.choice(forms), *rng.sample(more, rng.choice((0, 1, 1, 2, 3)))]
    if rng.random() < 0.06:  # a correction: the later word counts
        wrong = rng.choice(tuple(THINGS))
        chosen.append(f"it is not {indefinite(wrong)} {side}, it is {indefinite(_noun(thing))}")
    return [" ".join(_sentence(form) for form in chosen)]


def _sign_remarks(sign: SceneSign, rng: random.Random) -> list[str]:
    where = _side(sign.x)
    forms = [
        f"a sign {where} says {sign.word}",
        f"the word {sign.word} is written on a sign {where}",
        f"there is a sign with the word {sign.word}",
        f"{rng.choice(_PEOPLE)} reads {sign.word} on the sign",
        f"on a white board {where} stands {sign.word}",
    ]
    return [_sentence(form) for form in rng.sample(forms, rng.randint(1, 2))]


def _relation_remarks(scene: Scene, rng: random.Random) -> list[str]:
    if len(scene.things) < 2 or rng.random() < 0.3:
        return []
    one, other = rng.sample(scene.things, 2)
    if one.name == other.name:
        return []
    if abs(one.x - other.x) >= abs(one.y - other.y):
        relation = "left of" if one.x < other.x else "right of"
    else:
        relation = "above" if one.y < other.y else "below"
    texts = [f"the {_noun(one)} {_is(one)} {relation} the {_noun(other, rng, color=0.5)}"]
    if one.size - other.size >= 12:
        texts.append(f"the {one.name} {_is(one)} bigger than the {other.name}")
    return [_sentence(text) for text in texts]


def documents(seed: int, first_scene: int) -> Iterator[Document]:
    """An endless stream of texts: descriptions with requests, and plain sentences in a row.

    Args:
        seed: Chooses wording and order.
        first_scene: Seed of the first scene that is described; the following ones are used in turn.
    """
    rng = random.Random(f"picturebook documents {seed}")
    stream = sentences(seed)
    scene_seed = first_scene
    while True:
        if rng.random() < 0.25:
            yield Document(" ".join(next(stream) for _ in range(rng.randint(2, 6))), ())
            continue
        scene = sample_scene(scene_seed)
        scene_seed += 1
        if not scene.things:
            continue
        remarks = _remarks(scene, rng)
        rng.shuffle(remarks)
        if rng.random() < 0.25:
            remarks.insert(rng.randrange(len(remarks) + 1), _fact(rng))
        yield Document(" ".join(remarks), exchanges(scene, rng, rng.randint(2, 4)))


# ---------------------------------------------------------------------------------------------------------------
# Single sentences: captions, facts, stories


def sentences(seed: int) -> Iterator[str]:
    """An endless stream of single sentences: of scenes, of facts, and out of stories.

    More than a million different ones can be drawn: two things of 80 with their colors in one of 10 places
    alone give more than ten million captions.

    Args:
        seed: The same seed gives the same stream on every machine.
    """
    rng = random.Random(f"picturebook sentences {seed}")
    scene_seed = FIRST_SCENE["sentences"] + rng.randrange(10**9)
    while True:
        kind = rng.random()
        if kind < 0.35:
            scene_seed += 1
            scene = sample_scene(scene_seed)
            if not scene.things:
                continue
            if rng.random() < 0.45:
                yield caption(scene, rng)
            else:
                yield rng.choice(_remarks(scene, rng))
        elif kind < 0.65:
            yield _fact(rng)
        else:
            yield _story(rng)


def _fact(rng: random.Random) -> str:
    thing = rng.choices(tuple(THINGS.values()), weights=[0.5 if t.rare else 1.0 for t in THINGS.values()])[0]
    one = indefinite(thing.name)
    many = plural(thing.name)
    kind = f"a kind of {thing.kind}" if thing.kind in ("food", "furniture") else indefinite(thing.kind)
    part, where = rng.choice(thing.parts), rng.choice(thing.found)
    other = rng.choice([t for t in THINGS.values() if t.kind == thing.kind and t is not thing])
    color = rng.choice(thing.colors)
    usual = f"can be {color}" if thing.recolorable else f"is usually {color}"
    if thing.name == "scissors":
        usual = "can be any color"
    forms = (
        f"{one} is {kind}",
        f"{one} has {part}",
        f"{one} {usual}",
        f"{many} are often found {where}",
        f"you can see {one} {where}",
        f"people know that {one} can {thing.use}" if thing.kind == "animal" else f"with {one} you can {thing.use}",
        f"{many} have {part}",
        f"both {many} and {plural(other.name)} are {plural(thing.kind)}",
        f"{one} is not {indefinite(other.name)}, but both are {plural(thing.kind)}",
        f"the {thing.name} is known for {part}",
        f"children learn that {one} is {kind} with {part}",
        f"what has {part} and is found {where} may be {one}",
    )
    return _sentence(rng.choice(forms))


def _story(rng: random.Random) -> str:
    person, friend = rng.sample(_PEOPLE, 2)
    things = tuple(THINGS.values())
    weights = [0.5 if t.rare else 1.0 for t in things]
    one, other = rng.choices(things, weights=weights, k=2)
    color, mood, time = rng.choice(tuple(COLORS)), rng.choice(_MOODS), rng.choice(_TIMES)
    place, sign = rng.choice(tuple(PLACES.values())), rng.choice(SIGN_WORDS)
    a_one, a_other = indefinite(one.name), indefinite(other.name)
    painted = indefinite(f"{rng.choice(one.colors)} {one.name}")
    forms = (
        f"{person} bought {painted} {time}",
        f"{person} dreamed of {a_one} that could {other.use}",
        f"{time}, {person} gave {a_one} to {friend}",
        f"{person} was {mood} because the {one.name} was gone",
        f"the story is about {a_one} and {a_other} who became friends",
        f"{person} drew {painted} {place.at}",
        f"{person} forgot the {one.name} {place.at} {time}",
        f"{person} lost the {one.name} and found {a_other} instead",
        f"nobody knew why {person} kept {a_one} in the {sign}" if sign in _ROOMS else f"{person} read the word {sign}",
        f"{person} and {friend} walked past the {sign}" if sign in _ROOMS else f"the door said {sign} {time}",
        f"{friend} asked {person} to bring {a_one} and {a_other}",
        f"{person} sang a song about {a_one} {time}",
        f"{person} painted the {one.name} {color}, and {friend} was {mood}",
        f"once upon a time {a_one} lived {place.at}",
        f"{person} told {friend} a secret about the {one.name}",
        f"the {one.name} in the book was as {color} as {rng.choice(_LIKENESS[color])}",
        f"{time} the {place.name} was full of {plural(one.name)}",
        f"{person} wanted {a_one}, but {friend} wanted {a_other}",
        *(sense.format(person=person, friend=friend, time=time, mood=mood) for sense in rng.sample(_SENSES, 4)),
    )
    return _sentence(rng.choice(forms))


_ROOMS = frozenset(
    {"bakery", "school", "zoo", "hotel", "market", "library", "museum", "garage", "cafe", "bank", "station"}
)

_LIKENESS = {
    "red": ("fire", "a cherry"),
    "orange": ("the evening sky", "a pumpkin"),
    "yellow": ("the sun", "honey"),
    "green": ("fresh grass", "a frog"),
    "blue": ("the sea", "a clear sky"),
    "purple": ("a plum", "late clouds"),
    "pink": ("a rose", "cotton candy"),
    "brown": ("wet soil", "chocolate"),
    "black": ("coal", "the night"),
    "white": ("snow", "milk"),
    "gray": ("a rain cloud", "old stone"),
}

_SENSES = (
    "{person} saw {friend} {time}",
    "a train of thought kept {person} awake {time}",
    "{person} had to boot the old computer {time}",
    "{person} will book a room for {friend}",
    "rain began to drum on the roof {time}",
    "{friend} said that the test was a piece of cake",
    "{person} was in the doghouse with {friend}",
    "it rained cats and dogs {time}",
    "{person} tried to hammer the rule into everybody",
    "{friend} and {person} sat on the bank of the river",
    "their plan went down like a lead balloon",
    "{person} wanted to table the question until {friend} came",
    "prices began to rocket {time}",
    "{person} had butterflies and could not sit still in the chair",
    "{friend} tried to bridge the gap between them",
    "{person} missed the boat and was late {time}",
    "{friend} let the cat out of the bag {time}",
    "they had to stop and open the window {time}",
    "{person} felt under the weather and stayed in bed",
    "{friend} wears many hats at work",
    "the apple never falls far from the tree, said {person}",
    "{person} was on the ball {time}",
    "that name rings a bell, said {friend}",
    "{person} climbed the ladder of the company",
    "the clock is ticking, said {friend}, and {person} was {mood}",
    "{person} felt blue {time}",
    "{friend} turned green with envy",
    "{person} saw red when {friend} closed the shop",
    "a white lie is still a lie, said {person}",
    "the news came out of the blue {time}",
    "{person} was over the moon and {friend} was {mood}",
    "{friend} followed the road into the valley {time}",
    "someone must cook, clean and shovel the snow {time}",
    "{person} played the second violin in the matter",
    "in the mirror of the lake {person} watched the clouds",
    "{friend} had to duck under the low door",
    "the sea was a carpet of light {time}",
    "{person} could horse around with {friend} for hours",
    "the wind carried the smell of bread through the town",
    "{person} parked in front of the house and was {mood}",
)
