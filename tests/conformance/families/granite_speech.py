"""A tiny Granite Speech: windows of 6 frames (0.12 s) with 3 tokens each, two conformer blocks.

torchaudio is not installed where the tests run. Its one class that the feature extractor uses is written out here with
torch alone, by its documentation; all else is the real thing.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tests.conformance.tiny import TEXT, VISION, save, template, tokenizer
from torch import Tensor, nn

SECONDS = (0.5, 0.333, 0.05, 1.2345, 2.0)


class _MelSpectrogram(nn.Module):
    """torchaudio.transforms.MelSpectrogram with its defaults: power, centred, HTK scale without norm."""

    def __init__(self, sample_rate: int, n_fft: int, win_length: int, hop_length: int, n_mels: int) -> None:
        from transformers.audio_utils import mel_filter_bank

        super().__init__()
        self.settings = {"n_fft": n_fft, "win_length": win_length, "hop_length": hop_length}
        filters = mel_filter_bank(n_fft // 2 + 1, n_mels, 0.0, sample_rate / 2, sample_rate, mel_scale="htk")
        self.filters = nn.Buffer(torch.from_numpy(filters).float())
        self.window = nn.Buffer(torch.hann_window(win_length))

    def forward(self, samples: Tensor) -> Tensor:
        spectrum = torch.stft(samples, **self.settings, window=self.window, return_complex=True).abs() ** 2
        return self.filters.T @ spectrum


def _stand_in() -> None:
    from transformers.models.granite_speech import feature_extraction_granite_speech as file
    from transformers.utils import is_torchaudio_available

    if not is_torchaudio_available():
        module: Any = file
        module.torchaudio = SimpleNamespace(transforms=SimpleNamespace(MelSpectrogram=_MelSpectrogram))
        module.requires_backends = lambda *_: None


def build(folder: Path, *, plus: bool = False) -> None:
    """With `plus`, the projector also sees what enters the encoder's first block."""
    from transformers import (
        Blip2QFormerConfig,
        GraniteConfig,
        GraniteSpeechConfig,
        GraniteSpeechEncoderConfig,
        GraniteSpeechFeatureExtractor,
        GraniteSpeechForConditionalGeneration,
        GraniteSpeechPlusConfig,
        GraniteSpeechPlusEncoderConfig,
        GraniteSpeechPlusForConditionalGeneration,
        GraniteSpeechProcessor,
    )

    _stand_in()
    words = tokenizer(["<|audio|>"])
    text = {name: value for name, value in TEXT.items() if name != "head_dim"}
    hearing: dict[str, Any] = {"input_dim": 160, "num_layers": 2, "hidden_dim": 32, "num_heads": 2, "output_dim": 8}
    hearing |= {"context_size": 20, "conv_kernel_size": 3}
    encoder = GraniteSpeechEncoderConfig(**hearing)
    if plus:
        encoder = GraniteSpeechPlusEncoderConfig(**hearing, cat_hidden_layers=[0])
    config = (GraniteSpeechPlusConfig if plus else GraniteSpeechConfig)(
        encoder_config=encoder,
        projector_config=Blip2QFormerConfig(
            **VISION, vocab_size=8, encoder_hidden_size=64 if plus else 32, cross_attention_frequency=1
        ),
        text_config=GraniteConfig(
            **text, vocab_size=len(words), embedding_multiplier=3.0, logits_scaling=4.0, attention_multiplier=0.3
        ),
        audio_token_index=words.convert_tokens_to_ids("<|audio|>"),
        has_lora_adapter=False,
        downsample_rate=2,
        window_size=6,
        tie_word_embeddings=False,
    )
    extractor = GraniteSpeechFeatureExtractor(projector_window_size=6, projector_downsample_rate=2)
    processor = GraniteSpeechProcessor(extractor, words, chat_template=template(audio="<|audio|>"))
    network = (GraniteSpeechPlusForConditionalGeneration if plus else GraniteSpeechForConditionalGeneration)(config)
    save(folder, network, processor)


@contextlib.contextmanager
def quiet(network: nn.Module) -> Iterator[None]:
    """The conformer's attention and convolution add nothing; the Q-Former's is what looks at a window, and stays."""

    def nothing(_: nn.Module, __: object, output: Tensor) -> Tensor:
        return torch.zeros_like(output)

    kinds = ("GraniteSpeechConformerAttention", "GraniteSpeechConformerConvModule")
    parts = [part for part in network.modules() if type(part).__name__ in kinds]
    assert len(parts) == 4
    handles = [part.register_forward_hook(nothing) for part in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
