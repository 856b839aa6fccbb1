import pytest
import torch
from PIL import Image

from patchlens.capture.capture import capture, request_of
from patchlens.capture.hidden_states import HiddenStates
from patchlens.errors import OptionError
from patchlens.lenses import logit
from patchlens.lenses.logit import LogitLens, top_tokens
from patchlens.models.model import Model
from patchlens.models.prepare import prepare


def test_the_last_layer_says_what_the_model_says(tiny_llava: Model, states: HiddenStates, picture: Image.Image) -> None:
    prepared = prepare(tiny_llava, [request_of(picture, "Describe this image.")])
    with torch.no_grad():
        logits = tiny_llava.network(**prepared.inputs).logits[0, prepared.sequences[0].tokens.visual]
    values, tokens = logits.topk(5)
    readings = list(LogitLens(tiny_llava).read(states, layers=4))
    assert len(readings) == 16
    pieces = [tiny_llava.tokenizer.convert_ids_to_tokens(row) for row in tokens.tolist()]
    assert [[one.token for one in reading.candidates] for reading in readings] == pieces
    found = torch.tensor([[one.logit for one in reading.candidates] for reading in readings])
    torch.testing.assert_close(found, values, rtol=1e-5, atol=1e-5)


def test_every_layer_goes_through_the_norm_once(tiny_llava: Model, states: HiddenStates) -> None:
    for layer in states.layers:
        with torch.no_grad():
            by_hand = tiny_llava.network.lm_head(tiny_llava.final_norm(states.at(layer)))
        found = [reading.candidates[0].logit for reading in LogitLens(tiny_llava).read(states, layers=layer)]
        torch.testing.assert_close(torch.tensor(found), by_hand.max(dim=1).values)


def test_chunks_change_nothing(tiny_llava: Model, states: HiddenStates, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = LogitLens(tiny_llava).read(states)
    sizes = []
    unembedding = tiny_llava.unembedding.logits

    def noting(vectors: torch.Tensor) -> torch.Tensor:
        sizes.append(len(vectors))
        return unembedding(vectors)

    monkeypatch.setattr(tiny_llava.unembedding, "logits", noting)
    monkeypatch.setattr(logit, "CHUNK_BYTES", 4 * 7 * tiny_llava.input_embeddings.shape[0])
    chunked = LogitLens(tiny_llava).read(states)
    assert max(sizes) == 7
    assert sum(sizes) == 80
    assert [one.words for one in chunked] == [one.words for one in whole]


def test_k_is_at_most_the_vocabulary(tiny_llava: Model, states: HiddenStates) -> None:
    vocabulary = tiny_llava.input_embeddings.shape[0]
    readings = LogitLens(tiny_llava).read(states, layers=0, k=vocabulary)
    assert {len(set(candidate.token for candidate in one.candidates)) for one in readings} == {vocabulary}
    with pytest.raises(OptionError, match=f"{vocabulary + 1}.*{vocabulary} tokens"):
        LogitLens(tiny_llava).read(states, layers=0, k=vocabulary + 1)


def test_ties_go_to_the_lower_id() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0, 2.0], [5.0, 5.0, 5.0, 5.0, 5.0], [1.0, 4.0, 3.0, 4.0, 0.0]])
    assert top_tokens(logits, 2).tolist() == [[1, 2], [0, 1], [1, 3]]
    assert top_tokens(logits, 4).tolist() == [[1, 2, 4, 3], [0, 1, 2, 3], [1, 3, 2, 0]]
    assert top_tokens(logits, 5).tolist() == [[1, 2, 4, 3, 0], [0, 1, 2, 3, 4], [1, 3, 2, 0, 4]]


@pytest.mark.parametrize("levels", [2, 7, 1000])
def test_top_tokens_equal_a_stable_sort(levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    logits = torch.randint(levels, (50, 300), generator=generator).float() - levels / 2
    expected = logits.sort(dim=1, descending=True, stable=True).indices[:, :9]
    assert torch.equal(top_tokens(logits, 9), expected)


def test_layer_zero_is_what_the_projector_gave(tiny_llava: Model, picture: Image.Image) -> None:
    states = capture(tiny_llava, picture, layers=0)
    assert LogitLens(tiny_llava).read(states).layers == (0,)
