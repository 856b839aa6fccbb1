"""A tiny model of every causal family: its real config class, two blocks, random weights.

One place for what is known of the families: what each needs to be made small, which cannot be packed, and which are
refused when they are loaded.
"""

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

LONGEST = 12
"""Tokens of the longest sentence of the tests."""

WINDOW = 5
"""Tokens that layers with sliding or chunked attention see, and that sparse attention keeps."""

SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embedding_size"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok", "moe_topk"), 2),
    # Shorter than the packs, which are not to care how long a sequence the model was made for.
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 16),
    **dict.fromkeys(("head_dim", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "rotary_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("n_group", "topk_group"), 1),
    **dict.fromkeys(("sliding_window", "attention_chunk_size", "index_topk", "keep_window_size"), WINDOW),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "mamba_d_state", "state_size"), 8),
    **dict.fromkeys(("hidden_size_per_layer_input", "linear_head_dim", "mamba_head_dim", "mamba_num_heads"), 8),
    **dict.fromkeys(("linear_num_heads", "index_n_heads", "prefix_dense_intermediate_size"), 4),
    **dict.fromkeys(("global_head_dim", "expert_ffn_hidden_size", "dense_intermediate_size"), 16),
    # What is done to logits, which loading must know of.
    **dict.fromkeys(("logit_scale", "lm_head_multiplier", "logits_scaling", "logits_mup_width_multiplier"), 0.5),
    **dict.fromkeys(("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap"), 3.0),
    "vocab_size_per_layer_input": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "is_decoder": True,
    "tie_word_embeddings": False,
}
"""For every config that has the field."""

_LATENT = {"num_key_value_heads": 4}  # multi-head latent attention has one key for each query head
_LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
_SHARED = {"layers_block_type": ["linear_attention", "hybrid"]}
_SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "use_sliding_window": True}
# Scores of few heads are often all zero after their ReLU, and of equal ones any may be kept.
_INDEXED = {**_LATENT, "index_head_dim": 16, "index_n_heads": 32}
_MUSIC = {"text_encoder": {"model_type": "t5"}, "audio_encoder": {"model_type": "encodec"}, "decoder": {}}
_SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_ASSISTANT = {"num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}

SPECIAL: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "deepseek_v2", "deepseek_v3", "glm4_moe_lite", "longcat_flash", "minicpm3"), _LATENT),
    **dict.fromkeys(("axk2", "deepseek_v32", "glm_moe_dsa"), _INDEXED),
    **dict.fromkeys(("afmoe", "cohere2", "cohere2_moe", "exaone4", "exaone_moe", "gemma3_text", "laguna"), _SLIDING),
    **dict.fromkeys(("mellum", "ministral", "olmo3", "qwen2", "qwen2_moe", "qwen3", "smollm3"), _SLIDING),
    **dict.fromkeys(("qwen3_5_text", "qwen3_5_moe_text", "qwen3_next"), _LINEAR),
    **dict.fromkeys(("musicgen", "musicgen_melody"), _MUSIC),
    "bamba": {"mamba_n_heads": 4, "mamba_d_head": 16, "attn_layer_indices": [1]},
    "blt": {
        **{part: {**_SMALL, "hidden_size_global": 32} for part in ("encoder_config", "decoder_config")},
        **{part: _SMALL for part in ("patcher_config", "global_config")},
        "encoder_hash_byte_group_vocab": 50,
    },
    "cohere_compass_text": {
        **_SLIDING,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
            "full_attention": None,
        },
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 48},
    },
    "dots1": {**_SLIDING, "n_shared_experts": 1},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16},
    "gemma3n_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "num_kv_shared_layers": 0,
        "activation_sparsity_pattern": None,
    },
    "gemma4_assistant": {
        "text_config": {**_SMALL, **_ASSISTANT, "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}
    },
    "gemma4_unified_assistant": {
        "text_config": {**_SMALL, **_ASSISTANT, "model_type": "gemma4_unified_text"},
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    "granitemoehybrid": {**_LINEAR, "mamba_n_heads": 4, "mamba_d_head": 16},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {**_LINEAR, **_LATENT},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "llama4_text": {"layer_types": ["chunked_attention", "full_attention"], "no_rope_layers": [1, 0]},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1},
    "minimax_m3_vl_text": {
        "layer_types": ["minimax_m3_sparse", "full_attention"],
        "index_n_heads": 2,
        "index_head_dim": 8,
        "index_block_size": 4,
        "index_topk_blocks": 2,
    },
    "ministral3": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 4,
            "llama_4_scaling_beta": 1.0,
        },
    },
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "attention_window_size": WINDOW},
    "mpt": {"logit_scale": None},  # transformers leaves it out
    "reformer": {
        "axial_pos_embds_dim": [16, 16],
        "axial_pos_shape": [4, 4],
        "attn_layers": ["local", "local"],
        "attention_head_size": 8,
        "local_attn_chunk_length": 4,
    },
    "youtu": _LATENT,
    **dict.fromkeys(("zamba", "zamba2"), _SHARED),
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}
"""What one family needs besides, or in place of it."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "falcon with alibi": ("falcon", {"alibi": True}),
    "falcon, parallel": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "gpt_neo, global": ("gpt_neo", {"attention_types": [[["global"], 2]]}),
    "granitemoehybrid, no hybrid": ("granitemoehybrid", {"layer_types": ["full_attention"] * 2}),
    "llama4_text, scaled early": (
        "llama4_text",
        {"attn_temperature_tuning": True, "floor_scale": 3, "attn_scale": 1.0},
    ),
    "minimax_m3_vl_text, dense": ("minimax_m3_vl_text", {"layer_types": ["full_attention"] * 2}),
    "nemotron_h, no hybrid": ("nemotron_h", {"layers_block_type": ["full_attention", "mlp"]}),
    "opt, norm after": ("opt", {"do_layer_norm_before": False}),
}
"""More of a family than its usual form, by name: the family and what is different."""

_RECURRENT = "layers of type .*(linear_attention|conv|hybrid).* see their neighbours"
_NO_POSITIONS = "takes no position ids"

ONE_A_ROW: dict[str, str] = {
    **dict.fromkeys(("bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "inkling_text", "jamba"), _RECURRENT),
    **dict.fromkeys(("kimi_linear", "lfm2", "lfm2_moe", "mamba", "mamba2", "minimax", "nemotron_h"), _RECURRENT),
    **dict.fromkeys(("olmo_hybrid", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "zamba", "zamba2"), _RECURRENT),
    "zaya": _RECURRENT,
    "recurrent_gemma": "convolutions along the sequence",
    "minimax_m3_vl_text": "layers of type minimax_m3_sparse",
    **dict.fromkeys(("bart", "blenderbot", "blenderbot-small", "marian", "mbart", "mvp", "pegasus"), _NO_POSITIONS),
    **dict.fromkeys(("bloom", "mpt", "plbart", "rwkv", "trocr"), _NO_POSITIONS),
    "xlstm": "takes no attention mask",
    "falcon with alibi": "ALiBi",
    "gpt_neo": "a mask of its own",
    "gpt_neo, global": "a mask of its own",
    "llama4_text, scaled early": "scaled by the place in the sequence from 3 on",
    "openai-gpt": "makes its own attention masks",
}
"""Families that cannot be packed, and what is said of them."""

_MASKED_LANGUAGE_MODEL = (
    "fills masks; as a decoder its blocks stand in an encoder, and a dense layer stands before its vocabulary",
    "No text decoder was found",
)
_LANES = "keeps {} states for each token, which no layer's output is one of"

QUARANTINE: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("bert", "big_bird", "camembert", "data2vec-text", "electra", "ernie"), _MASKED_LANGUAGE_MODEL),
    **dict.fromkeys(("megatron-bert", "modernbert-decoder", "rembert", "roberta"), _MASKED_LANGUAGE_MODEL),
    **dict.fromkeys(("roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta"), _MASKED_LANGUAGE_MODEL),
    **dict.fromkeys(("xlm-roberta-xl", "xmod"), _MASKED_LANGUAGE_MODEL),
    "bert-generation": ("its blocks stand in an encoder that is not asked for them", "No text decoder was found"),
    "bigbird_pegasus": (
        "has its final norm under the name that BART and others give to the norm of the embeddings",
        "not its final norm and head",
    ),
    "blt": ("cuts bytes into patches by a second model; a block's states are not those of tokens", "No text decoder"),
    "cpmant": ("its blocks stand in a part that takes no token ids", "No text decoder was found"),
    "deepseek_v4": (_LANES.format("four"), r"a state of shape \(1, 3, 4, 32\)"),
    "gemma3n_text": (_LANES.format("four"), r"a state of shape \(4, 1, 3, 32\)"),
    **dict.fromkeys(
        ("gemma4_assistant", "gemma4_unified_assistant"),
        ("runs only on the keys and values of the model that it drafts for", "shared_kv_states cannot be None"),
    ),
    "hrm_text": ("runs two stacks of blocks in turns, several times each", "No text decoder was found"),
    "hy_v4": (_LANES.format("four"), r"a state of shape \(1, 3, 4, 32\)"),
    **dict.fromkeys(
        ("musicgen", "musicgen_melody"),
        ("writes audio codes, and transformers makes its causal class of no config that it saves", "no attribute"),
    ),
    "prophetnet": ("runs a stream for each of the tokens that it predicts at once", r"a state of shape \(1, 9, 32\)"),
    "qwen4_exp_text": (_LANES.format("four"), r"a state of shape \(1, 3, 128\)"),
    "reformer": ("its blocks are reversible: each has two states, and both go on", "No text decoder was found"),
    "xlm": ("keeps its attention, norms and layers in lists of their own, not in blocks", "No text decoder was found"),
    "xlnet": ("every token sees all others unless it is given a permutation", "No text decoder was found"),
}
"""Families that cannot be looked into: why, and what making or loading one says."""


def tiny_folder(name: str, folder: Path, tokenizer: Any, **different: Any) -> Path:
    """Save a tiny model and its tokenizer as a person would have them.

    Args:
        name: A model type, or one of VARIANTS.
        folder: To be filled.
        tokenizer: Its length is the vocabulary.
        **different: In place of SIZES, where the config has the field.
    """
    network: Any = _network(_config(name, len(tokenizer), {**SIZES, **different}))
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _config(name: str, vocabulary: int, sizes: dict[str, Any]) -> Any:
    from transformers import CONFIG_MAPPING

    model_type, different = VARIANTS.get(name, (name, {}))
    special = deepcopy({**SPECIAL.get(model_type, {}), **different})  # some configs take what they are given apart
    made = CONFIG_MAPPING[model_type]
    default = made(**deepcopy(special)) if model_type.startswith("musicgen") else made()
    known = {*vars(default), *default.attribute_map}
    return made(**{**{key: sizes[key] for key in sizes if key in known}, "vocab_size": vocabulary, **special})


def _network(config: Any) -> nn.Module:
    """Every parameter is drawn anew: many start at 0 or 1 and would hide what they do to the states."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    network: nn.Module = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim < 2:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
    return network
