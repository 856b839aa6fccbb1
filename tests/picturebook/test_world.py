from importlib import resources

import pytest

from patchlens.picturebook.world import COLORS, KINDS, PLACES, SIGN_WORDS, THINGS, indefinite, plural


def test_the_world_is_as_large_as_promised() -> None:
    assert len(THINGS) >= 64
    assert len(KINDS) >= 8
    assert len(PLACES) >= 8
    assert len(SIGN_WORDS) >= 24
    assert len({color for thing in THINGS.values() for color in thing.colors}) >= 10


def test_every_thing_is_complete() -> None:
    for thing in THINGS.values():
        assert set(thing.colors) <= set(COLORS)
        assert thing.parts
        assert thing.use
        assert thing.found


def test_no_word_means_two_things() -> None:
    nouns = [*THINGS, *PLACES, *SIGN_WORDS, *COLORS]
    assert len(set(nouns)) == len(nouns)


@pytest.mark.parametrize("name", THINGS)
def test_key_colors_are_in_the_drawings_of_recolorable_things_only(name: str) -> None:
    drawing = (resources.files("patchlens.picturebook") / "objects" / f"{name}.svg").read_text("utf-8").lower()
    assert ("#ff00ff" in drawing) == THINGS[name].recolorable


def test_every_drawing_belongs_to_a_thing_or_place() -> None:
    here = resources.files("patchlens.picturebook")
    assert {file.name for file in (here / "objects").iterdir()} == {f"{name}.svg" for name in THINGS}
    assert {file.name for file in (here / "places").iterdir()} == {f"{name}.svg" for name in PLACES}


@pytest.mark.parametrize(
    ("noun", "one", "many"),
    [("owl", "an owl", "owls"), ("car", "a car", "cars"), ("scarf", "a scarf", "scarves"), ("bus", "a bus", "buses"),
     ("scissors", "a pair of scissors", "scissors"), ("cactus", "a cactus", "cacti"), ("bench", "a bench", "benches")],
)  # fmt: skip
def test_grammar(noun: str, one: str, many: str) -> None:
    assert indefinite(noun) == one
    assert plural(noun) == many
