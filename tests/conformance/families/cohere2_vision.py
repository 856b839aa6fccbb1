"""A tiny Cohere2 Vision: tiles of 32 pixels, at most six, 2 × 2 visual tokens each. Its processor needs torchvision."""

from pathlib import Path

from tests.conformance.tiny import TEXT, VISION, save, template, tokenizer

NEEDS = "torchvision"
SIZES = ((32, 32), (64, 96), (120, 40), (33, 130), (300, 200), (20, 25))


def build(folder: Path) -> None:
    from transformers import (
        Cohere2Config,
        Cohere2VisionConfig,
        Cohere2VisionForConditionalGeneration,
        Cohere2VisionImageProcessor,
        Cohere2VisionProcessor,
        SiglipVisionConfig,
    )

    words = tokenizer(
        named={
            "image_token": "<|IMG_PATCH|>",
            "boi_token": "<|START_OF_IMG|>",
            "eoi_token": "<|END_OF_IMG|>",
            "img_line_break_token": "<|IMG_LINE_BREAK|>",
        }
    )
    config = Cohere2VisionConfig(
        vision_config=SiglipVisionConfig(**VISION, image_size=32, patch_size=8, vision_use_head=False),
        text_config=Cohere2Config(**{**TEXT, "tie_word_embeddings": True}, vocab_size=len(words), sliding_window=64),
        image_token_id=words.image_token_id,
        downsample_factor=2,
        alignment_intermediate_size=64,
    )
    processor = Cohere2VisionProcessor(
        # Its patch size is what the processor takes for the tokens along a side of a tile, as published.
        Cohere2VisionImageProcessor(size={"height": 32, "width": 32}, max_patches=6, patch_size=2),
        words,
        chat_template=template("<|IMG_PATCH|>"),
    )
    save(folder, Cohere2VisionForConditionalGeneration(config), processor)
