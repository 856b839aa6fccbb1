"""A tiny BLIP-2: four queries to an encoder of 4 × 4 patches, and OPT."""

from pathlib import Path

from tests.conformance.tiny import VISION, save, tokenizer

SIZES = ((32, 32), (64, 96), (96, 64), (12, 12), (200, 300))

SEVERAL = False
PLACED = False


def build(folder: Path) -> None:
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        OPTConfig,
    )
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    words = tokenizer(["<image>"])
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**VISION, image_size=32, patch_size=8),
        qformer_config=Blip2QFormerConfig(**VISION, vocab_size=8),
        text_config=OPTConfig(
            hidden_size=32,
            ffn_dim=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            word_embed_proj_dim=32,
            vocab_size=len(words),
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        ),
        num_query_tokens=4,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    processor = Blip2Processor(BlipImageProcessorPil(size={"height": 32, "width": 32}), words, num_query_tokens=4)
    save(folder, Blip2ForConditionalGeneration(config), processor)
