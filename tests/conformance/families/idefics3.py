"""A tiny Idefics3: at most 2 × 2 tiles of 32 pixels, each 2 × 2 visual tokens of four patches."""

from pathlib import Path

from tests.conformance.tiny import TEXT, VISION, save, template, tokenizer

SIZES = ((64, 64), (30, 120), (130, 40), (200, 90), (10, 24))

OWN_MASK = False  # it compares ids with the placeholder's where it puts the features in, and keeps no mask


def build(folder: Path) -> None:
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3Processor,
        Idefics3VisionConfig,
        LlamaConfig,
    )
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    rows_and_columns = [f"<row_{row}_col_{column}>" for row in range(1, 3) for column in range(1, 3)]
    words = tokenizer(["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *rows_and_columns])
    config = Idefics3Config(
        vision_config=Idefics3VisionConfig(**VISION, image_size=32, patch_size=8),
        text_config=LlamaConfig(**TEXT, vocab_size=len(words)),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    processor = Idefics3Processor(
        Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32}),
        words,
        image_seq_len=4,
        chat_template=template("<image>"),
    )
    save(folder, Idefics3ForConditionalGeneration(config), processor)
