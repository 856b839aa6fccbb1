from patchlens.picturebook.evaluate import score
from patchlens.picturebook.scene import Scene, SceneSign, SceneThing


def scene(*things: tuple[str, str], place: str = "park", sign: str | None = None) -> Scene:
    made = tuple(SceneThing(name, color, 40, 72, 72, False) for name, color in things)
    return Scene(0, place, made, SceneSign(sign, 1.7, 40, 40) if sign else None)


def test_a_perfect_caption() -> None:
    one = scene(("car", "red"), ("owl", "brown"), sign="zoo")
    found = score([(one, "A red car and an owl in a park. A sign says zoo.")])
    assert [share.share for share in vars(found).values()] == [1, 1, 1, 1, 1, 0]
    assert found.false_words.trials == 0


def test_two_of_a_kind_must_be_said_twice() -> None:
    pair = scene(("car", "red"), ("car", "blue"))
    assert score([(pair, "A red car in a park.")]).objects.hits == 1
    assert score([(pair, "A red car and a blue car in a park.")]).objects.hits == 2


def test_what_is_wrong_is_counted() -> None:
    found = score([(scene(("car", "red")), "A blue car and a cat on a beach. A sign says zoo.")])
    assert (found.objects.hits, found.objects.trials) == (1, 1)
    assert (found.said.hits, found.said.trials) == (1, 2)
    assert (found.colors.hits, found.colors.trials) == (0, 1)
    assert found.places.hits == 0
    assert (found.false_words.hits, found.false_words.trials) == (1, 1)


def test_part_of_a_word_does_not_count() -> None:
    assert score([(scene(("car", "red")), "A carrot in a park.")]).objects.hits == 0
