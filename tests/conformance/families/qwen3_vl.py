"""A tiny Qwen3-VL, with DeepStack after the first of its three blocks."""

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
    "deepstack_visual_indexes": [0],
    **PATCH,
}


def build(folder: Path) -> None:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    words = qwen_words()
    config = Qwen3VLConfig(vision_config=ENCODER, text_config=text(vocab_size=len(words)), **qwen_ids(words))
    save(folder, Qwen3VLForConditionalGeneration(config), qwen_processor(words))


def build_moe(folder: Path) -> None:
    from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

    words = qwen_words()
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    config = Qwen3VLMoeConfig(
        vision_config=ENCODER, text_config=text(vocab_size=len(words), **experts), **qwen_ids(words)
    )
    save(folder, Qwen3VLMoeForConditionalGeneration(config), qwen_processor(words))
