import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    OPTConfig,
)

from patchlens.models.hooks import observe
from patchlens.models.model import Model
from patchlens.models.registry import adapter_for

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "initializer_range": 0.5,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "llama, tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "cohere scales": CohereConfig(**SIZES, logit_scale=0.25),
    "granite divides": GraniteConfig(**SIZES, logits_scaling=4.0),
    "gemma2 bounds": Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=3.0),
    "gpt2 names": GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32, initializer_range=0.5),
    "gpt_neox names": GPTNeoXConfig(**{key: SIZES[key] for key in SIZES if key != "num_key_value_heads"}),
    "opt nests": OPTConfig(
        vocab_size=50,
        hidden_size=16,
        word_embed_proj_dim=16,
        ffn_dim=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        init_std=0.5,
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_last_layer_gives_the_models_own_logits_to_the_bit(name: str) -> None:
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(CONFIGS[name]).eval()
    model = Model(name, None, network, None, None, adapter_for({"model_type": "llama"}), "")
    seen: dict[int, torch.Tensor] = {}
    ids = torch.arange(5, 15)[None]
    with torch.no_grad(), observe(model.blocks, [1, model.n_layers], seen.__setitem__):
        logits = network(input_ids=ids).logits[0]
    assert torch.equal(model.unembedding.logits(seen[model.n_layers][0]), logits)
    # It could fail: the layer below gives others.
    assert not torch.allclose(model.unembedding.logits(seen[1][0]), logits, atol=1e-2)


def test_any_float_type_is_taken(tiny_causal: Model) -> None:
    states = torch.randn(3, tiny_causal.d_model)
    full = tiny_causal.unembedding.logits(states)
    assert full.dtype == torch.float32
    assert torch.equal(tiny_causal.unembedding.logits(states.double()), full)
    rounded = tiny_causal.unembedding.logits(states.bfloat16())
    assert torch.equal(rounded, tiny_causal.unembedding.logits(states.bfloat16().float()))
