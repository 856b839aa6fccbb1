"""A tiny InstructBLIP: four queries, which see the prompt's words, to an encoder of 4 × 4 patches, and Llama."""

from pathlib import Path

from tests.conformance.tiny import TEXT, VISION, save, tokenizer

SIZES = ((32, 32), (64, 96), (96, 64), (12, 12), (200, 300))

SEVERAL = False
PLACED = False


def build(folder: Path) -> None:
    from transformers import (
        InstructBlipConfig,
        InstructBlipForConditionalGeneration,
        InstructBlipProcessor,
        InstructBlipQFormerConfig,
        InstructBlipVisionConfig,
        LlamaConfig,
    )
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    words, asked = tokenizer(["<image>"]), tokenizer()
    config = InstructBlipConfig(
        vision_config=InstructBlipVisionConfig(**VISION, image_size=32, patch_size=8),
        qformer_config=InstructBlipQFormerConfig(**VISION, vocab_size=len(asked)),
        text_config=LlamaConfig(**TEXT, vocab_size=len(words)),
        num_query_tokens=4,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    pictures = BlipImageProcessorPil(size={"height": 32, "width": 32})
    processor = InstructBlipProcessor(pictures, words, asked, num_query_tokens=4)
    save(folder, InstructBlipForConditionalGeneration(config), processor)
