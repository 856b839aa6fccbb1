"""A tiny Voxtral: chunks of 0.96 s, 12 tokens each."""

from pathlib import Path

from tests.conformance.tiny import TEXT, save, template, tokenizer

SECONDS = (0.5, 0.9, 0.05, 1.2345, 2.0, 0.96)

PADDED = True


def build(folder: Path) -> None:
    from transformers import (
        LlamaConfig,
        VoxtralConfig,
        VoxtralEncoderConfig,
        VoxtralForConditionalGeneration,
        VoxtralProcessor,
        WhisperFeatureExtractor,
    )

    # The processor takes the token number 24 for a recording, as Mistral's vocabulary has it.
    others = [f"<SPECIAL_{number}>" for number in range(5, 24)]
    words = tokenizer([*others, "[AUDIO]", "[BEGIN_AUDIO]", "[INST]", "[/INST]"])
    words.chat_template = template(audio="[BEGIN_AUDIO][AUDIO]")
    config = VoxtralConfig(
        audio_config=VoxtralEncoderConfig(
            num_mel_bins=16,
            hidden_size=32,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_source_positions=48,
        ),
        text_config=LlamaConfig(**TEXT, vocab_size=len(words)),
        audio_token_id=words.convert_tokens_to_ids("[AUDIO]"),
    )
    processor = VoxtralProcessor(WhisperFeatureExtractor(feature_size=16), words)
    save(folder, VoxtralForConditionalGeneration(config), processor)
