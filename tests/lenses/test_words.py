import pytest

from patchlens.lenses.words import pieces_and_words
from patchlens.models.model import Model


def test_words_have_no_marks_and_pieces_do(tiny_causal: Model) -> None:
    tokenizer = tiny_causal.tokenizer
    token = tokenizer("a car", add_special_tokens=False).input_ids[1]
    pieces, words = pieces_and_words(tokenizer, [token])
    assert pieces[0].startswith("Ġ")
    assert words[0] == pieces[0][1:]


def test_what_decodes_to_nothing_shows_its_piece(tiny_causal: Model) -> None:
    tokenizer = tiny_causal.tokenizer
    wanted = ["</s>", "Ġ", "Ċ", "ģ"]  # special, a blank, a line end, a byte that is no character alone
    ids = tokenizer.convert_tokens_to_ids(wanted)
    assert pieces_and_words(tokenizer, ids) == (wanted, wanted)


@pytest.mark.parametrize("beyond", [10_000])
def test_an_id_beyond_the_vocabulary(tiny_causal: Model, beyond: int) -> None:
    pieces, words = pieces_and_words(tiny_causal.tokenizer, [beyond])
    assert pieces == words == ["<10000>"]
