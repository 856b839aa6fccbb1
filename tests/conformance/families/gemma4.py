"""A tiny Gemma 4: at most 70 visual tokens, the fewest that its processor allows, of 2 × 2 patches of 4 pixels."""

from pathlib import Path

from tests.conformance.tiny import TEXT, VISION, save, template, tokenizer, video_part

SIZES = ((64, 64), (50, 120), (130, 45), (16, 12), (200, 170), (10, 500))


def build(folder: Path) -> None:
    from transformers import (
        Gemma4AudioFeatureExtractor,
        Gemma4Config,
        Gemma4ForConditionalGeneration,
        Gemma4TextConfig,
        Gemma4VisionConfig,
    )
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    from patchlens.models.without_torchvision import processor_class

    named = {
        "image_token": "<|image|>",
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "audio_token": "<|audio|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
    }
    words = tokenizer(["<|video|>"], named)
    config = Gemma4Config(
        vision_config=Gemma4VisionConfig(
            **VISION,
            num_key_value_heads=2,
            head_dim=16,
            patch_size=4,
            pooling_kernel_size=2,
            position_embedding_size=128,
        ),
        text_config=Gemma4TextConfig(
            **TEXT,
            vocab_size=len(words),
            vocab_size_per_layer_input=len(words),
            hidden_size_per_layer_input=8,
            global_head_dim=16,
            num_kv_shared_layers=1,
            sliding_window=32,
            layer_types=["sliding_attention", "full_attention", "full_attention"],
            use_bidirectional_attention="vision",
            # A bound so low that a lens which left it out would be seen.
            final_logit_softcapping=2.0,
        ),
        image_token_id=words.convert_tokens_to_ids("<|image|>"),
        video_token_id=words.convert_tokens_to_ids("<|video|>"),
        audio_token_id=words.convert_tokens_to_ids("<|audio|>"),
        boi_token_id=words.convert_tokens_to_ids("<|image>"),
        eoi_token_id=words.convert_tokens_to_ids("<image|>"),
        tie_word_embeddings=False,
    )
    processor = processor_class("Gemma4Processor")(
        Gemma4AudioFeatureExtractor(),
        Gemma4ImageProcessorPil(patch_size=4, pooling_kernel_size=2, max_soft_tokens=70),
        words,
        video_part("Gemma4VideoProcessor"),
        image_seq_length=70,
        chat_template=template("<|image|>"),
    )
    save(folder, Gemma4ForConditionalGeneration(config), processor)
