"""A tiny LLaVA-OneVision: SigLIP, whose 4 × 4 patches do not fill the tiles of 35 pixels; shrunk beyond nine tiles."""

from pathlib import Path

from tests.conformance.tiny import TEXT, VISION, save, template, tokenizer, video_part

SIZES = ((64, 64), (50, 130), (150, 60), (20, 24), (300, 280), (31, 90))


def build(folder: Path) -> None:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionProcessor,
        Qwen2Config,
        SiglipVisionConfig,
    )
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

    words = tokenizer(["<image>", "<video>"])
    canvases = [[35 * rows, 35 * columns] for rows in range(1, 5) for columns in range(1, 5)]
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**VISION, image_size=35, patch_size=8, vision_use_head=False),
        text_config=Qwen2Config(**TEXT, vocab_size=len(words)),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=canvases,
    )
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessorPil(size={"height": 35, "width": 35}, image_grid_pinpoints=canvases),
        words,
        video_part("LlavaOnevisionVideoProcessor"),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=template("<image>"),
    )
    save(folder, LlavaOnevisionForConditionalGeneration(config), processor)
