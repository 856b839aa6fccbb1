"""A tiny InternVL: tiles of 32 pixels, at most six, 2 × 2 visual tokens each."""

from pathlib import Path

from tests.conformance.tiny import TEXT, VISION, save, template, tokenizer, video_part

SIZES = ((32, 32), (64, 96), (120, 40), (33, 130), (300, 200), (90, 90))


def build(folder: Path) -> None:
    from transformers import (
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVisionConfig,
        Qwen2Config,
    )
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    words = tokenizer(named=named)
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(**VISION, image_size=32, patch_size=8),
        text_config=Qwen2Config(**TEXT, vocab_size=len(words)),
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    processor = InternVLProcessor(
        GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, crop_to_patches=False, min_patches=1, max_patches=6),
        words,
        video_part("InternVLVideoProcessor"),
        image_seq_length=4,
        chat_template=template("<IMG_CONTEXT>"),
    )
    save(folder, InternVLForConditionalGeneration(config), processor)
