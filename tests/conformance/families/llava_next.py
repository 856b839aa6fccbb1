"""A tiny LLaVA-NeXT: CLIP, at most four tiles of 4 × 4 patches, and the text model of Granite Vision, which scales."""

from pathlib import Path

from tests.conformance.tiny import TEXT, VISION, save, template, tokenizer

SIZES = ((64, 64), (50, 130), (150, 60), (20, 24), (300, 210), (31, 90), (10, 150), (300, 5))


def build(folder: Path) -> None:
    from transformers import (
        CLIPVisionConfig,
        GraniteConfig,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextProcessor,
    )
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    words = tokenizer(["<image>"])
    canvases = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**VISION, image_size=32, patch_size=8),
        text_config=GraniteConfig(**TEXT, vocab_size=len(words), logits_scaling=4.0, embedding_multiplier=3.0),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=canvases,
        vision_feature_layer=-2,
    )
    processor = LlavaNextProcessor(
        LlavaNextImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=canvases
        ),
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )
    save(folder, LlavaNextForConditionalGeneration(config), processor)
