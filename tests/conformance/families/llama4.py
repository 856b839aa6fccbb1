"""A tiny Llama 4: tiles of 32 pixels, at most four, 2 × 2 visual tokens each. Its processor needs torchvision."""

from pathlib import Path

from tests.conformance.tiny import TEXT, save, template, tokenizer

NEEDS = "torchvision"
SIZES = ((32, 32), (64, 96), (150, 60), (20, 50), (300, 310), (40, 170))


def build(folder: Path) -> None:
    from transformers import (
        Llama4Config,
        Llama4ForConditionalGeneration,
        Llama4ImageProcessor,
        Llama4Processor,
        Llama4TextConfig,
        Llama4VisionConfig,
    )

    marks = ("image", "image_start", "image_end", "patch", "tile_x_separator", "tile_y_separator")
    words = tokenizer([f"<|{mark}|>" for mark in marks])
    config = Llama4Config(
        vision_config=Llama4VisionConfig(
            hidden_size=32,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
            vision_output_dim=24,
            projector_input_dim=24,
            projector_output_dim=24,
        ),
        text_config=Llama4TextConfig(
            **TEXT,
            vocab_size=len(words),
            intermediate_size_mlp=48,
            num_local_experts=2,
            num_experts_per_tok=1,
            attention_chunk_size=8192,
        ),
        image_token_index=words.convert_tokens_to_ids("<|patch|>"),
    )
    processor = Llama4Processor(
        Llama4ImageProcessor(size={"height": 32, "width": 32}, max_patches=4),
        words,
        patch_size=8,
        chat_template=template("<|image|>"),
    )
    save(folder, Llama4ForConditionalGeneration(config), processor)
