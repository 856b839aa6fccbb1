"""A tiny Qwen2-VL."""

from pathlib import Path

from tests.conformance.merged import PATCH, SIZES, qwen_ids, qwen_processor, qwen_words, text
from tests.conformance.tiny import save

__all__ = ["SIZES", "build"]


def build(folder: Path) -> None:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    words = qwen_words()
    config = Qwen2VLConfig(
        vision_config={"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 32, "mlp_ratio": 2, **PATCH},
        text_config=text(vocab_size=len(words)),
        **qwen_ids(words),
    )
    save(folder, Qwen2VLForConditionalGeneration(config), qwen_processor(words, "Qwen2VLProcessor"))
