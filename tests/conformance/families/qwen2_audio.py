"""A tiny Qwen2-Audio: recordings of up to two seconds."""

from pathlib import Path

from tests.conformance.tiny import TEXT, save, template, tokenizer

SECONDS = (0.5, 0.333, 0.07, 1.2345, 2.0)


def build(folder: Path) -> None:
    from transformers import (
        Qwen2AudioConfig,
        Qwen2AudioEncoderConfig,
        Qwen2AudioForConditionalGeneration,
        Qwen2AudioProcessor,
        Qwen2Config,
        WhisperFeatureExtractor,
    )

    words = tokenizer(["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"])
    config = Qwen2AudioConfig(
        audio_config=Qwen2AudioEncoderConfig(
            num_mel_bins=16,
            d_model=32,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=48,
            max_source_positions=100,
        ),
        text_config=Qwen2Config(**TEXT, vocab_size=len(words)),
        audio_token_index=words.convert_tokens_to_ids("<|AUDIO|>"),
    )
    processor = Qwen2AudioProcessor(
        WhisperFeatureExtractor(feature_size=16, chunk_length=2),
        words,
        chat_template=template(audio="<|audio_bos|><|AUDIO|><|audio_eos|>"),
    )
    save(folder, Qwen2AudioForConditionalGeneration(config), processor)
