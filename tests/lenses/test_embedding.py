import pytest
import torch

from patchlens.capture.capture import capture
from patchlens.capture.hidden_states import HiddenStates
from patchlens.lenses.embedding import EmbeddingLens
from patchlens.models.model import Model


def test_a_text_token_at_layer_zero_is_its_own_word(tiny_causal: Model) -> None:
    states = capture(tiny_causal, prompt="The cats sleep in the harbor.", layers=[0], positions="text")
    readings = list(EmbeddingLens(tiny_causal).read(states))
    own = tiny_causal.tokenizer.convert_ids_to_tokens(states.token_ids.tolist())
    assert [one.candidates[0].token for one in readings] == own
    assert [one.candidates[0].similarity for one in readings] == pytest.approx([1.0] * len(own), abs=1e-6)


def test_equals_a_brute_force_version(tiny_llava: Model, states: HiddenStates) -> None:
    matrix = tiny_llava.input_embeddings.double()
    queries = states.vectors.flatten(0, 1).double()
    cosines = torch.nn.functional.cosine_similarity(queries[:, None], matrix[None], dim=-1).float()
    expected = cosines.sort(dim=1, descending=True, stable=True).indices[:, :4]
    pieces = [tiny_llava.tokenizer.convert_ids_to_tokens(row) for row in expected.tolist()]
    readings = EmbeddingLens(tiny_llava).read(states, k=4)
    assert [[one.token for one in reading.candidates] for reading in readings] == pieces
