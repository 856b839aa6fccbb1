"""A tiny Qwen3.5: two blocks of linear attention and one of full attention."""

from pathlib import Path
from typing import Any

from tests.conformance.merged import PATCH, SIZES, qwen_ids, qwen_processor, qwen_words, text
from tests.conformance.tiny import save

__all__ = ["SIZES", "build", "build_moe"]

ENCODER: dict[str, Any] = {
    "depth": 2,
    "num_heads": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "out_hidden_size": 32,
    "num_position_embeddings": 16,
    **PATCH,
}
LINEAR: dict[str, Any] = {
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "head_dim": 16,
    "rope": {"partial_rotary_factor": 0.5},
}


def build(folder: Path) -> None:
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    words = qwen_words()
    config = Qwen3_5Config(vision_config=ENCODER, text_config=text(vocab_size=len(words), **LINEAR), **qwen_ids(words))
    save(folder, Qwen3_5ForConditionalGeneration(config), qwen_processor(words))


def build_moe(folder: Path) -> None:
    from transformers import Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration

    words = qwen_words()
    experts = {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    }
    config = Qwen3_5MoeConfig(
        vision_config=ENCODER, text_config=text(vocab_size=len(words), **LINEAR, **experts), **qwen_ids(words)
    )
    save(folder, Qwen3_5MoeForConditionalGeneration(config), qwen_processor(words))
