import re
import subprocess
import sys

import pytest

from patchlens.models.embedded import embedded
from patchlens.picturebook.lexicon import lexicon
from patchlens.picturebook.world import COLORS, KINDS, PLACES, THINGS, plural


def test_every_word_of_the_banks_sentences_has_a_class_and_no_other() -> None:
    # In a process of its own, where no types are checked 40,000 times over.
    code = "from patchlens.picturebook import corpus; print(*{word for text in corpus() for word in text.split()})"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    said = set(re.findall("[a-z]+", printed.lower()))
    assert len(said) > 800
    plurals = {plural(noun) for noun in (*THINGS, *KINDS, *PLACES)}
    assert said <= set(lexicon())
    assert set(lexicon()) - said <= plurals


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("car cars scissors cacti animal bread bank duck hammer", "noun"),
        ("anna viktor sunday", "proper noun"),
        ("carry stands painted ring began eaten", "verb"),
        ("red orange wooden striped curious closed", "adjective"),
        ("yesterday slowly very never", "adverb"),
        ("the of behind and cannot nobody itself has", "function word"),
        ("one two three four six", "number"),
    ],
)
def test_classes_checked_by_hand(words: str, name: str) -> None:
    classes = lexicon()
    assert {word: classes[word] for word in words.split()} == dict.fromkeys(words.split(), name)


def test_the_tables_of_the_world_are_in_it() -> None:
    classes = lexicon()
    assert {classes[name] for name in THINGS} == {"noun"}
    assert {classes[color] for color in COLORS} == {"adjective"}


def test_the_embedded_model_offers_it() -> None:
    member = embedded("picturebook")
    assert member is not None
    assert member.lexicon is not None
    assert member.lexicon() == lexicon()
