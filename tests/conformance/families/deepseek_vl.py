"""A tiny DeepSeek-VL: a square of 32 pixels, 4 × 4 visual tokens; no side is made shorter than 6 pixels."""

from pathlib import Path

from tests.conformance.tiny import TEXT, VISION, save, template, tokenizer

SIZES = ((32, 32), (60, 100), (101, 64), (7, 9), (200, 30), (40, 300), (90, 80), (75, 101), (48, 50))


def build(folder: Path) -> None:
    from transformers import (
        DeepseekVLConfig,
        DeepseekVLForConditionalGeneration,
        DeepseekVLProcessor,
        LlamaConfig,
        SiglipVisionConfig,
    )
    from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import DeepseekVLImageProcessorPil

    words = tokenizer(named={"image_token": "<image_placeholder>"})
    config = DeepseekVLConfig(
        vision_config=SiglipVisionConfig(**VISION, image_size=32, patch_size=8),
        text_config=LlamaConfig(**TEXT, vocab_size=len(words)),
        image_token_id=words.convert_tokens_to_ids("<image_placeholder>"),
        tie_word_embeddings=False,
    )
    processor = DeepseekVLProcessor(
        DeepseekVLImageProcessorPil(size={"height": 32, "width": 32}, min_size=6),
        words,
        num_image_tokens=16,
        chat_template=template("<image_placeholder>"),
    )
    save(folder, DeepseekVLForConditionalGeneration(config), processor)
