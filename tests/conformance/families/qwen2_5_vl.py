"""A tiny Qwen2.5-VL: windows of 2 × 2 cells in the first block of its encoder."""

from pathlib import Path

from tests.conformance.merged import PATCH, SIZES, qwen_ids, qwen_processor, qwen_words, text
from tests.conformance.tiny import save

__all__ = ["SIZES", "build"]


def build(folder: Path) -> None:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    words = qwen_words()
    sizes = {"depth": 2, "num_heads": 2, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 32}
    config = Qwen2_5_VLConfig(
        vision_config={**sizes, "window_size": 16, "fullatt_block_indexes": [1], **PATCH},
        text_config=text(vocab_size=len(words)),
        **qwen_ids(words),
    )
    save(folder, Qwen2_5_VLForConditionalGeneration(config), qwen_processor(words, "Qwen2_5_VLProcessor"))
