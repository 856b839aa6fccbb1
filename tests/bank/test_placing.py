from typing import Any

import numpy as np
import pytest

from patchlens.bank.placing import Places, Rows, place
from patchlens.models.model import Model


def rows(*said: tuple[str, str, int, int]) -> Rows:
    """Of (sentence, token text, token id, position)."""
    captions, tokens = (list(dict.fromkeys(each[at] for each in said)) for at in (0, 1))
    return Rows(
        captions,
        np.array([captions.index(each[0]) for each in said]),
        tokens,
        np.array([tokens.index(each[1]) for each in said]),
        np.array([each[2] for each in said]),
        np.array([each[3] for each in said]),
    )


def searched(text: str, *tokens: str) -> list[tuple[str, str]]:
    """Word and token as they are found, without a tokenizer, for tokens in this order."""
    found = place(rows(*((text, token, 9, position) for position, token in enumerate(tokens, start=2))))
    spans = found.spans.tolist()
    assert all(
        text[span[0] : span[1]] == word for span, word in zip(spans, found.words, strict=True) if span[0] < len(text)
    )
    return [(word, text[span[2] : span[3]]) for word, span in zip(found.words, spans, strict=True)]


@pytest.mark.parametrize(
    ("text", "tokens", "expected"),
    [
        ("the cat sat", [" cat"], [("cat", "cat")]),
        ("the cats saw a cat", [" cat", "s"], [("cat", "cat"), ("cats", "s")]),  # alone, " cat" is a whole word rather
        ("she sells cats", [" c", "ats"], [("cats", "c"), ("cats", "ats")]),
        ("she sells cats", [" cat", "s"], [("cats", "cat"), ("cats", "s")]),  # not the first letter of "she"
        ("a dog and a dog", [" dog", " dog"], [("dog", "dog"), ("dog", "dog")]),
        ("strawberries", ["berries"], [("strawberries", "berries")]),
        ("the cat", ["cat"], [("cat", "cat")]),  # tokenizers that write no spaces into their tokens
        ("the cat", [" dog"], [("dog", "")]),
        ("the cat", ["<pad>"], [("<pad>", "")]),
        ("the cat.", [" cat", "."], [("cat", "cat"), (".", ".")]),
        ("", [" cat"], [("cat", "")]),
        ("two  spaces", ["  "], [("  ", "  ")]),
        ("the cat", [""], [("", "")]),
        ("\u732b\u304c\u3044\u308b", ["\u732b"], [("\u732b", "\u732b")]),
    ],
)
def test_tokens_are_looked_for(text: str, tokens: list[str], expected: list[tuple[str, str]]) -> None:
    assert searched(text, *tokens) == expected


def test_each_token_is_looked_for_behind_the_one_before() -> None:
    text = "a dog and a dog and a dog"
    found = place(rows(*((text, " dog", 9, position) for position in (2, 5, 8))))
    assert found.spans[:, 2].tolist() == [2, 12, 22]


def test_the_order_of_rows_does_not_matter() -> None:
    text = "a dog and a dog and a dog"
    found = place(rows(*((text, " dog", 9, position) for position in (8, 2, 5)), ("a dog", " dog", 9, 4)))
    assert found.spans[:, 2].tolist() == [22, 2, 12, 2]


def test_whether_tokens_carry_spaces_is_seen_from_all_of_them() -> None:
    """With a tokenizer whose tokens do, one that does not goes on with a word."""
    text = "she hears"
    other = ("a cat", " cat", 7, 1)
    assert place(rows((text, "he", 9, 2), other)).spans[0].tolist() == [0, 3, 1, 3]
    assert place(rows((text, "hears", 9, 2))).spans[0].tolist() == [4, 9, 4, 9]
    assert place(rows((text, "hears", 9, 2), other)).spans[0].tolist() == [4, 9, 4, 9]  # better than not at all


class TestWithTheTokenizer:
    @pytest.fixture
    def tokenizer(self, tiny_causal: Model) -> Any:
        return tiny_causal.tokenizer

    def placed(self, tokenizer: Any, text: str, positions: list[int], *, shift: int = 0, change: int = 0) -> Places:
        ids = tokenizer(text)["input_ids"]
        said = [(text, tokenizer.decode([ids[at]]), ids[at] + change, at + shift) for at in positions]
        return place(rows(*said), tokenizer)

    @pytest.mark.parametrize("shift", [0, 1, 40])
    def test_the_characters_are_its_offsets(self, tokenizer: Any, shift: int) -> None:
        text = "The dog saw the cats by the house."
        offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        positions = list(range(2, len(offsets)))
        found = self.placed(tokenizer, text, positions, shift=shift)
        assert found.exact.all()
        assert found.position.tolist() == positions
        assert found.spans[:, 3].tolist() == [offsets[at][1] for at in positions]

    def test_a_sentence_that_it_cuts_otherwise_is_searched(self, tokenizer: Any) -> None:
        found = self.placed(tokenizer, "The dog saw the cats", [2, 4], change=1)
        assert not found.exact.any()
        assert found.found.all()
        assert found.position.tolist() == [2, 4]

    def test_special_tokens_stand_nowhere(self, tokenizer: Any) -> None:
        text = "The dog"
        found = place(
            rows((text, "<s>", tokenizer.bos_token_id, 0), (text, "<pad>", tokenizer.pad_token_id, 3)), tokenizer
        )
        assert found.words == ["<s>", "<pad>"]
        assert (found.spans == len(text)).all()
        assert not found.exact.any()
        assert not found.found.any()

    def test_half_a_character(self, tokenizer: Any) -> None:
        """Its token decodes to nothing that the sentence contains; the offsets know the character."""
        text = "so \U0001f600 yes"
        ids = tokenizer(text)["input_ids"]
        at = next(at for at, token in enumerate(ids) if tokenizer.decode([token]) == "\ufffd")
        found = self.placed(tokenizer, text, [at])
        assert found.words == ["\U0001f600"]
        assert place(rows((text, "\ufffd", ids[at], at))).words == ["\ufffd"]
