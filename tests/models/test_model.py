import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import patchlens
from patchlens.errors import ModelIncomplete
from patchlens.models.loading import Model, load_model
from patchlens.models.model import text_decoder, weights_fingerprint


@pytest.fixture(scope="module")
def alone(tiny_llava: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The VLM's language model, taken out and saved as a model of its own."""
    from transformers import LlamaForCausalLM

    network = LlamaForCausalLM(tiny_llava.decoder.config)
    network.model.load_state_dict(tiny_llava.decoder.state_dict())
    network.lm_head.load_state_dict(tiny_llava.network.lm_head.state_dict())
    folder = tmp_path_factory.mktemp("alone")
    network.save_pretrained(folder)
    tiny_llava.tokenizer.save_pretrained(folder)
    return load_model(folder)


def test_a_language_model_has_one_fingerprint_alone_and_inside_a_vlm(tiny_llava: Model, alone: Model) -> None:
    assert alone.adapter.family != tiny_llava.adapter.family
    assert alone.fingerprint == tiny_llava.fingerprint
    assert alone.tokenizer_fingerprint == tiny_llava.tokenizer_fingerprint


def test_the_fingerprint_is_the_same_in_every_data_type(alone: Model, llava_folder) -> None:
    assert load_model(llava_folder(), dtype="bfloat16").fingerprint == alone.fingerprint


def test_the_fingerprint_of_float32_weights_is_another_in_float16(alone: Model, llava_folder) -> None:
    assert load_model(llava_folder(), dtype="float16").fingerprint != alone.fingerprint


def test_the_fingerprint_tells_models_apart(causal_folder: Callable[..., Path], tiny_causal: Model) -> None:
    prints = {load_model(causal_folder(name)).fingerprint for name in ("llama", "qwen2", "olmo2")}
    assert len(prints) == 3
    changed = load_model(causal_folder())
    assert changed.fingerprint == tiny_causal.fingerprint
    changed.blocks[3].mlp.down_proj.weight.mul_(1.02)
    assert weights_fingerprint(changed.decoder) != tiny_causal.fingerprint


def test_the_tokenizer_fingerprint_survives_use_and_tells_tokenizers_apart(
    causal_folder: Callable[..., Path],
) -> None:
    model = load_model(causal_folder())
    before = model.tokenizer_fingerprint
    again = load_model(causal_folder())
    again.tokenizer(["A cat.", "A cat sleeps."], padding=True, truncation=True, max_length=3)
    assert again.tokenizer_fingerprint == before
    assert load_model(causal_folder(bos=False)).tokenizer_fingerprint != before


def test_parts(tiny_llava: Model) -> None:
    language_model = tiny_llava.network.model.language_model
    assert tiny_llava.decoder is language_model
    assert tiny_llava.blocks == list(language_model.layers)
    assert tiny_llava.final_norm is language_model.norm
    assert torch.equal(tiny_llava.input_embeddings, language_model.embed_tokens.weight)
    assert not tiny_llava.input_embeddings.requires_grad
    assert tiny_llava.device == torch.device("cpu")
    assert "llava, 4 blocks, d_model 32" in repr(tiny_llava)


def test_a_network_without_blocks() -> None:
    with pytest.raises(ModelIncomplete, match="No text decoder"):
        text_decoder(torch.nn.Linear(2, 2))


def test_provenance(tiny_llava: Model) -> None:
    made = tiny_llava.provenance("bank", seed=3)
    assert (made.kind, made.model, made.revision) == ("bank", tiny_llava.name, None)
    assert (made.fingerprint, made.tokenizer) == (tiny_llava.fingerprint, tiny_llava.tokenizer_fingerprint)
    assert made.settings == {"seed": 3}
    assert made.versions["patchlens"] == patchlens.__version__
    assert made.versions["torch"] == torch.__version__
    assert made.created is not None
    assert made.created.endswith("+00:00")
    json.dumps(made.to_json())
