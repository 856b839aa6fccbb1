import itertools
import random
import re

from patchlens.picturebook.language import DESCRIBE, caption, documents, exchanges, sentences
from patchlens.picturebook.scene import SceneThing, scenes
from patchlens.picturebook.world import COLORS, PLACES, THINGS


def test_streams_are_seeded() -> None:
    one, again, other = (list(itertools.islice(sentences(seed), 50)) for seed in (0, 0, 1))
    assert one == again
    assert one != other
    assert next(documents(0, 5)) == next(documents(0, 5))


def test_a_million_different_sentences_can_be_drawn() -> None:
    """Estimated from captions alone: by the number of pairs that are equal in a sample (birthday bound)."""
    sample = [caption(scene, random.Random(scene.seed)) for scene in scenes(5_000_000, 6000)]
    counts: dict[str, int] = {}
    for text in sample:
        counts[text] = counts.get(text, 0) + 1
    # Captions of one thing repeat, those of several hardly ever.
    rich = [text for text in sample if " and " in text]
    equal_pairs = sum(n * (n - 1) // 2 for n in (rich.count(text) for text in set(rich)) if n > 1)
    estimate = len(rich) * (len(rich) - 1) / 2 / max(equal_pairs, 1)
    assert estimate > 1_000_000


def test_captions_say_everything() -> None:
    for scene in scenes(0, 200):
        text = caption(scene, random.Random(scene.seed))
        words = re.findall("[a-z]+", text.lower())
        assert scene.place in words
        for thing in scene.things:
            assert thing.name in words
            if THINGS[thing.name].recolorable:
                assert (thing.color, thing.name) in itertools.pairwise(words)
        order = [word for word in words if word in THINGS]
        assert order == [e.name for e in scene.left_to_right if isinstance(e, SceneThing)]
        assert (scene.sign is None) or scene.sign.word in words


def test_a_reading_holds_what_its_answers_need() -> None:
    """Answers must follow from the text alone: every thing, color, place and word of the caption was said before."""
    known = {*THINGS, *COLORS, *PLACES}
    checked = 0
    for document in itertools.islice(documents(3, 100), 300):
        if not document.exchanges:
            continue
        assert document.exchanges[0].request == DESCRIBE
        said = set(re.findall("[a-z]+", document.reading.lower()))
        asked = set(re.findall("[a-z]+", document.exchanges[0].answer.lower()))
        assert asked & known <= said
        checked += 1
    assert checked > 150


def test_answers_are_marked() -> None:
    document = next(d for d in documents(0, 0) if d.exchanges)
    answers = [text for text, answer in document.parts if answer]
    assert answers == [exchange.answer for exchange in document.exchanges]
    assert "".join(text for text, _ in document.parts).startswith(document.reading)


def test_yes_and_no_are_true() -> None:
    for scene in scenes(0, 200):
        for exchange in exchanges(scene, random.Random(scene.seed), 8):
            if match := re.fullmatch(r"Is there an? (?:pair of )?(\w+)\?", exchange.request):
                noun = match[1]
                there = any(noun in (thing.name, THINGS[thing.name].kind) for thing in scene.things)
                assert exchange.answer.startswith("Yes") == there
