"""Where imported tokens stand in their sentences, from the little that the reference package writes down of it.

It keeps the sentence, the token's text and a position in the token sequence. With the tokenizer that gives the
characters; without it they are looked for. Knows nothing of files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from patchlens.inputs.words import Words

__all__ = ["Places", "Rows", "place"]

Ints = npt.NDArray[np.int64]
Small = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
Span = tuple[int, int]

_CHUNK = 1024  # sentences tokenized at a time


@dataclass(frozen=True, eq=False)
class Rows:
    """What the reference says of its rows, column by column; texts that occur often are held once."""

    captions: list[str]
    """The distinct sentences, in the order in which they come first."""
    caption: Ints
    """For each row its sentence."""
    tokens: list[str]
    """The distinct token texts, as the tokenizer decodes one token alone."""
    token: Ints
    """For each row its token text."""
    token_id: Ints
    """For each row its vocabulary id."""
    position: Ints
    """For each row its position in the token sequence, special tokens counted."""

    def __len__(self) -> int:
        """How many."""
        return len(self.token)

    def only(self, rows: Ints) -> "Rows":
        """Some of the rows, and the texts that they need."""
        if len(rows) == len(self):
            return self
        captions, caption = np.unique(self.caption[rows], return_inverse=True)
        tokens, token = np.unique(self.token[rows], return_inverse=True)
        return Rows(
            [self.captions[number] for number in captions.tolist()],
            caption,
            [self.tokens[number] for number in tokens.tolist()],
            token,
            self.token_id[rows],
            self.position[rows],
        )

    def said(self, row: int) -> dict[str, str | int]:
        """What the reference says of one row."""
        return {
            "token_str": self.tokens[self.token[row]],
            "token_id": int(self.token_id[row]),
            "position": int(self.position[row]),
            "caption": self.captions[self.caption[row]],
        }


@dataclass(frozen=True, eq=False)
class Places:
    """Where tokens stand."""

    spans: Small
    """For each row [word start, word end, token start, token end] in characters of its sentence."""
    words: list[str]
    """For each row the whole word; the token's own text where the sentence does not contain it."""
    position: Ints
    """For each row its position in the token sequence, padding on the left not counted."""
    exact: Mask
    """Rows that the tokenizer has at just that position."""
    found: Mask
    """Other rows whose text the sentence contains; theirs is its first place that fits."""


def place(rows: Rows, tokenizer: Any = None) -> Places:
    """Find the characters and the whole word of each token.

    With a tokenizer the characters are known, also where the positions count padding on the left, by the same
    number in all rows of a sentence. Otherwise each token is looked for behind those that stand before it. A token
    that its sentence does not contain gets the empty span at the sentence's end.

    Args:
        rows: The tokens.
        tokenizer: A fast tokenizer of transformers, the one that the rows were made with.
    """
    spans = np.zeros((len(rows), 4), dtype=np.int32)
    words = [""] * len(rows)
    position, exact, found = rows.position.copy(), np.zeros(len(rows), np.bool_), np.zeros(len(rows), np.bool_)
    spaced = any(text[:1].isspace() for text in rows.tokens)
    special = set() if tokenizer is None else set(tokenizer.all_special_ids)
    tokenized = _tokenized(rows.captions, tokenizer)
    for here, text, (ids, offsets) in zip(_by_caption(rows), rows.captions, tokenized, strict=True):
        tokens = [rows.tokens[token] for token in rows.token[here].tolist()]
        at, wanted = rows.position[here].tolist(), rows.token_id[here].tolist()
        shift = _shift(ids, at, wanted, special)
        if shift is None:
            places = _search(text, tokens, spaced)
            found[here] = [span is not None for span in places]
        else:
            position[here] -= np.where(np.isin(wanted, list(special)), 0, shift)
            exact[here] = [token not in special for token in wanted]
            places = [None if token in special else offsets[p - shift] for p, token in zip(at, wanted, strict=True)]
        known = Words(text)
        for row, token, span in zip(here.tolist(), tokens, places, strict=True):
            if span is None:
                spans[row], words[row] = len(text), token.strip() or token
            else:
                word = known.around(*span)
                spans[row], words[row] = (*word, *known.bare(*span)), text[slice(*word)]
    return Places(spans, words, position, exact, found)


def _by_caption(rows: Rows) -> Iterator[Ints]:
    """The rows of each sentence, in the order of their positions."""
    order = np.lexsort((rows.position, rows.caption))
    ends = np.searchsorted(rows.caption[order], np.arange(len(rows.captions), dtype=np.int64), side="right")
    start = 0
    for end in ends.tolist():
        yield order[start:end]
        start = end


def _tokenized(captions: Sequence[str], tokenizer: Any) -> Iterator[tuple[list[int], list[Span]]]:
    for start in range(0, len(captions), _CHUNK):
        chunk = list(captions[start : start + _CHUNK])
        if tokenizer is None:
            yield from (([], []) for _ in chunk)
            continue
        encoded = tokenizer(chunk, padding=False, truncation=False, return_offsets_mapping=True, verbose=False)
        yield from zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)


def _shift(ids: list[int], positions: list[int], wanted: list[int], special: set[int]) -> int | None:
    """How many positions of padding stand before the sentence; None if the tokenizer cuts it in another way."""
    said = [(position, token) for position, token in zip(positions, wanted, strict=True) if token not in special]
    for shift in range(said[0][0] + 1 if said and ids else 0):
        if all(position - shift < len(ids) and ids[position - shift] == token for position, token in said):
            return shift
    return None


def _search(text: str, tokens: Sequence[str], spaced: bool) -> list[Span | None]:
    """Look for tokens that stand in this order, though not side by side.

    The next token's place is never before the end of the earliest place of this one, so looking on from there
    misses none that the sentence has.
    """
    places: list[Span | None] = []
    behind = 0
    for token in tokens:
        fitting = _fitting(text, token, spaced, behind) or _fitting(text, token.strip(), False, 0)
        if fitting and fitting[0][0] >= behind:
            behind = fitting[0][1]
        ends_word = (span for span in fitting if not text[span[1] : span[1] + 1].isalnum())
        places.append(next(ends_word, fitting[0] if fitting else None))  # tokens that end no word are rarer
    return places


def _fitting(text: str, token: str, spaced: bool, behind: int) -> list[Span]:
    """The places of a token's text at or after a character.

    Args:
        text: The sentence.
        token: What to look for.
        spaced: Whether this tokenizer's tokens that begin a word begin with its space, so that the others do not.
        behind: The first character that it may begin at.
    """
    places = []
    at = text.find(token, behind) if token else -1
    while at >= 0:
        inside = at > 0 and not text[at - 1].isspace()
        if not spaced or inside or at == 0 or token[0].isspace():
            places.append((at, at + len(token)))
        at = text.find(token, at + 1)
    return places
