"""From a token's characters to the whole word that they stand in, at that very place in the sentence.

Knows nothing of tokenizers: it is given a text and a span of characters, as a fast tokenizer's offsets say.
"""

import re
import unicodedata
from bisect import bisect_right

__all__ = ["Words", "word_span"]

# Between two letters these belong to the word: don't, well-being, and the joiners of Persian and Indic scripts.
_JOINERS = "'\u2019-\u2010\u2011\u200c\u200d"

# Written without spaces between words, where letters side by side say nothing of word borders:
# Thai, Lao, Myanmar, Khmer, kana and Han (with their extensions).
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U0003ffff]"
)

_ASCII_WORD = re.compile("[0-9A-Za-z]+(?:['-][0-9A-Za-z]+)*")


class Words:
    """The words of one text, found once and then asked about many tokens."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._spans = _spans(text)
        self._starts = [start for start, _ in self._spans]

    def around(self, start: int, end: int) -> tuple[int, int]:
        """The whole word around the characters [start, end); see `word_span`."""
        start, end = self.bare(start, end)
        inside = [at for at in range(start, end) if _in_word(self._text[at])]
        if not inside:
            return start, end
        first, last = self._word_at(inside[0]), self._word_at(inside[-1])
        return min(first[0], inside[0]), max(last[1], inside[-1] + 1)

    def bare(self, start: int, end: int) -> tuple[int, int]:
        """The span without the white space around it; unchanged where there is nothing else."""
        piece = self._text[start:end]
        if not piece.strip():
            return start, end
        return start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip())

    def completes(self, start: int, end: int) -> bool:
        """Whether a token on [start, end) ends a word: punctuation and white space never do."""
        bare = self.bare(start, end)
        return bare[0] < bare[1] and _in_word(self._text[bare[1] - 1]) and self.around(*bare)[1] == bare[1]

    def _word_at(self, at: int) -> tuple[int, int]:
        found = bisect_right(self._starts, at) - 1
        if found >= 0 and at < self._spans[found][1]:
            return self._spans[found]
        return at, at + 1  # unspaced scripts: no word is known around the character


def word_span(text: str, start: int, end: int) -> tuple[int, int]:
    """Find the whole word around a token, by the token's place in the text.

    A word is letters, digits and their marks, with apostrophes and hyphens inside it. A token that covers
    parts of several words gets all of them. A token without a letter or digit keeps its own span, and so
    does one in a script that puts no spaces between words. White space at a token's ends is ignored.

    Args:
        text: The sentence.
        start: First character of the token, counted from 0.
        end: One past its last character.

    Returns:
        First and one past the last character of the word.

    Example:
        >>> word_span("a well-being check", 1, 4)
        (2, 12)
        >>> word_span("the cat.", 7, 8)
        (7, 8)
    """
    return Words(text).around(start, end)


def _spans(text: str) -> list[tuple[int, int]]:
    if text.isascii():  # the same, some ten times as fast
        return [match.span() for match in _ASCII_WORD.finditer(text)]
    return _any_spans(text)


def _any_spans(text: str) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    start: int | None = None
    for at, character in enumerate(text):
        spaced = _in_word(character) and not _UNSPACED.match(character)
        joins = character in _JOINERS and start is not None and _continues(text, at + 1)
        if start is None and spaced:
            start = at
        elif start is not None and not (spaced or joins):
            spans.append((start, at))
            start = None
    if start is not None:
        spans.append((start, len(text)))
    return spans


def _continues(text: str, at: int) -> bool:
    return at < len(text) and _in_word(text[at]) and not _UNSPACED.match(text[at])


def _in_word(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character).startswith("M")
