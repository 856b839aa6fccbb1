import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchlens.inputs import words as module
from patchlens.inputs.words import Words, word_span


def word(text: str, token: str, occurrence: int = 0) -> str:
    """The word around a token of a text, given by its letters."""
    start = -1
    for _ in range(occurrence + 1):
        start = text.index(token, start + 1)
    found = word_span(text, start, start + len(token))
    return text[slice(*found)]


@pytest.mark.parametrize(
    ("text", "token", "expected"),
    [
        ("The straw" + "berries grew.", "straw", "strawberries"),
        ("The strawberries grew.", "berri", "strawberries"),
        ("The strawberries grew.", " str", "strawberries"),  # byte-level tokens begin with the space
        ("the cat.", ".", "."),
        ("they don't know", "n't", "don't"),
        ("they don\u2019t know", "don", "don\u2019t"),
        ("a well-being check", "be", "well-being"),
        ("a well-being check", "-", "-"),
        ("rock 'n' roll", "'", "'"),
        ("dogs' beds", "dog", "dogs"),
        ("wait -- what", "wait", "wait"),
        ("pages 10-12", "12", "10-12"),
        ("New York City", " York C", "York City"),
        ("(cat)", "(c", "cat"),
        ("a cafe\u0301 there", "af", "cafe\u0301"),  # e and a combining accent
        ("हिन्दी भाषा", "न", "हिन्दी"),
        ("می\u200cخواهم بروم", "خوا", "می\u200cخواهم"),
        ("שלום עולם", "לו", "שלום"),
        ("我喜欢猫", "喜欢", "喜欢"),  # no spaces: the token alone is sure
        ("ein Käsebrot", "seb", "Käsebrot"),
        ("so 🙂 good", "🙂", "🙂"),
        ("the snake_case", "case", "case"),
    ],
)
def test_the_whole_word(text: str, token: str, expected: str) -> None:
    assert word(text, token) == expected


def test_the_right_occurrence() -> None:
    text = "A cat and the cats and a bobcat."
    assert [word(text, "cat", occurrence) for occurrence in range(3)] == ["cat", "cats", "bobcat"]


def test_white_space_keeps_its_own_span() -> None:
    assert word_span("a  b", 1, 3) == (1, 3)
    assert word_span("", 0, 0) == (0, 0)


def test_what_completes_a_word() -> None:
    words = Words("The straw berries, don't.")
    done = {(start, end): words.completes(start, end) for start in range(25) for end in range(start, 26)}
    assert done[3, 9]  # " straw"
    assert not done[3, 8]  # " stra"
    assert not done[17, 18]  # ","
    assert done[22, 24]  # "'t"
    assert not done[19, 22]  # "don" of don't
    assert not done[0, 0]


@given(st.text(alphabet=st.sampled_from("ab1é\u0301'-. _猫\u200dא🙂\n"), max_size=12), st.data())
def test_the_word_covers_its_token_and_is_its_own_word(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    first, last = word_span(text, start, end)
    assert word_span(text, first, last) == (first, last)
    inside = [at for at in range(start, end) if text[at].isalnum()]
    assert not inside or (first <= inside[0] and inside[-1] < last)
    assert 0 <= first <= last <= len(text)
    if " " not in text[start:end].strip():
        assert " " not in text[first:last].strip()


@given(st.text(alphabet="ab9'-_ .\n", max_size=30))
def test_the_fast_way_for_ascii_finds_the_same_words(text: str) -> None:
    assert module._spans(text) == module._any_spans(text)
