"""A tiny Janus: a square of 32 pixels, 4 × 4 visual tokens; no side is made shorter than 6 pixels."""

from pathlib import Path

from tests.conformance.tiny import TEXT, save, template, tokenizer

SIZES = ((32, 32), (60, 100), (101, 64), (7, 9), (200, 30), (40, 300), (90, 80), (75, 101), (48, 50))


def build(folder: Path) -> None:
    from transformers import (
        JanusConfig,
        JanusForConditionalGeneration,
        JanusProcessor,
        JanusVisionConfig,
        JanusVQVAEConfig,
        LlamaConfig,
    )
    from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

    words = tokenizer(
        named={"image_token": "<image_placeholder>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"}
    )
    config = JanusConfig(
        vision_config=JanusVisionConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            mlp_ratio=1.5,
            image_size=32,
            patch_size=8,
            projection_dim=32,
            num_image_tokens=16,
        ),
        vq_config=JanusVQVAEConfig(
            embed_dim=8,
            num_embeddings=16,
            latent_channels=32,
            base_channels=32,
            channel_multiplier=[1, 1],
            num_res_blocks=1,
            projection_dim=32,
            image_token_embed_dim=32,
        ),
        text_config=LlamaConfig(**TEXT, vocab_size=len(words)),
        image_token_id=words.convert_tokens_to_ids("<image_placeholder>"),
        tie_word_embeddings=False,
    )
    processor = JanusProcessor(
        JanusImageProcessorPil(size={"height": 32, "width": 32}, min_size=6),
        words,
        num_image_tokens=16,
        chat_template=template("<image_placeholder>"),
    )
    save(folder, JanusForConditionalGeneration(config), processor)
