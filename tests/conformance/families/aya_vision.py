"""A tiny Aya Vision: tiles of 32 pixels, at most six, 2 × 2 visual tokens each."""

from pathlib import Path

from tests.conformance.tiny import TEXT, VISION, save, template, tokenizer

SIZES = ((32, 32), (64, 96), (120, 40), (33, 130), (300, 200), (20, 25))


def build(folder: Path) -> None:
    from transformers import (
        AyaVisionConfig,
        AyaVisionForConditionalGeneration,
        AyaVisionProcessor,
        Cohere2Config,
        SiglipVisionConfig,
    )
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    words = tokenizer(["<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "TILE", "TILE_GLOBAL"])
    config = AyaVisionConfig(
        vision_config=SiglipVisionConfig(**VISION, image_size=32, patch_size=8, vision_use_head=False),
        text_config=Cohere2Config(**{**TEXT, "tie_word_embeddings": True}, vocab_size=len(words), sliding_window=64),
        image_token_index=words.convert_tokens_to_ids("<|IMG_PATCH|>"),
        downsample_factor=2,
        alignment_intermediate_size=64,
    )
    processor = AyaVisionProcessor(  # which cuts into tiles although its image processor would not, as published
        GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, crop_to_patches=False, min_patches=1, max_patches=6),
        words,
        patch_size=8,
        img_size=32,
        downsample_factor=2,
        chat_template=template("<image>"),
    )
    save(folder, AyaVisionForConditionalGeneration(config), processor)
