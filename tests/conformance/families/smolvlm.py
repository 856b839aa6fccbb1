"""A tiny SmolVLM: at most 2 × 2 tiles of 48 pixels, each 2 × 2 visual tokens of nine patches."""

from pathlib import Path

from tests.conformance.tiny import TEXT, VISION, save, template, tokenizer, video_part

from patchlens.models.families.smolvlm import num2words_optional

SIZES = ((96, 96), (40, 170), (140, 50), (300, 130), (12, 40))

OWN_MASK = False  # it compares ids with the placeholder's where it puts the features in, and keeps no mask


def build(folder: Path) -> None:
    from transformers import (
        LlamaConfig,
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMProcessor,
        SmolVLMVisionConfig,
    )
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    rows_and_columns = [f"<row_{row}_col_{column}>" for row in range(1, 3) for column in range(1, 3)]
    named = {
        "image_token": "<image>",
        "fake_image_token": "<fake_token_around_image>",
        "end_of_utterance_token": "<end_of_utterance>",
        "global_image_token": "<global-img>",
    }
    words = tokenizer(rows_and_columns, named)
    config = SmolVLMConfig(
        vision_config=SmolVLMVisionConfig(**VISION, image_size=48, patch_size=8),
        text_config=LlamaConfig(**TEXT, vocab_size=len(words)),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=3,
        pad_token_id=0,
    )
    with num2words_optional():
        processor = SmolVLMProcessor(
            SmolVLMImageProcessorPil(size={"longest_edge": 96}, max_image_size={"longest_edge": 48}),
            words,
            video_part("SmolVLMVideoProcessor"),
            image_seq_len=4,
            chat_template=template("<image>"),
        )
    save(folder, SmolVLMForConditionalGeneration(config), processor)
