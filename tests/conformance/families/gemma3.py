"""A tiny Gemma 3 with pan and scan: a grid is 32 pixels wide, 4 × 4 visual tokens of four patches."""

from pathlib import Path

from tests.conformance.tiny import TEXT, VISION, save, template, tokenizer

SIZES = ((32, 32), (40, 100), (130, 45), (16, 12), (200, 170))


def build(folder: Path) -> None:
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3Processor,
        Gemma3TextConfig,
        SiglipVisionConfig,
    )
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    named = {
        "image_token": "<image_soft_token>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    }
    words = tokenizer(named=named)
    config = Gemma3Config(
        vision_config=SiglipVisionConfig(**VISION, image_size=32, patch_size=4, vision_use_head=False),
        text_config=Gemma3TextConfig(
            **TEXT,
            vocab_size=len(words),
            query_pre_attn_scalar=8,
            sliding_window=16,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
        mm_tokens_per_image=16,
        image_token_index=words.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_index=words.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=words.convert_tokens_to_ids("<end_of_image>"),
    )
    processor = Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": 32, "width": 32}, do_pan_and_scan=True, pan_and_scan_min_crop_size=20),
        words,
        image_seq_length=16,
        chat_template=template("<start_of_image>"),
    )
    save(folder, Gemma3ForConditionalGeneration(config), processor)
