"""Vocabulary pieces as people read them.

Whole words out of several pieces need their sentence; a bank has them (`patchlens.inputs.words`).
"""

from collections.abc import Sequence
from typing import Any

__all__ = ["pieces_and_words"]


def pieces_and_words(tokenizer: Any, token_ids: Sequence[int]) -> tuple[list[str], list[str]]:
    """The raw piece and the readable word of each token id.

    The word is the decoded token without the space around it. Special tokens, blanks and bytes that are
    no character on their own would decode to nothing readable; their piece stands for them.
    """
    ids = list(token_ids)
    # A vocabulary may be smaller than the matrix it indexes, which is often padded to a round number.
    pieces = [piece or f"<{token}>" for piece, token in zip(tokenizer.convert_ids_to_tokens(ids), ids, strict=True)]
    special = set(tokenizer.all_special_ids)
    words = []
    for token, piece in zip(ids, pieces, strict=True):
        decoded = "" if token in special else tokenizer.decode([token], clean_up_tokenization_spaces=False).strip()
        words.append(decoded if any(map(_readable, decoded)) else piece)
    return pieces, words


def _readable(character: str) -> bool:
    return character.isprintable() and character != "\ufffd"
