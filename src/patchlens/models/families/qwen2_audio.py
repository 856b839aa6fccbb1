"""Qwen2-Audio: a Whisper encoder whose output is pooled by two; one token for four frames of the spectrogram (40 ms).

The tokens stand between two marks, in order of time. What is longer than the feature extractor's length (30 s) is cut
off.
"""

from typing import Any, ClassVar

from torch import Tensor

from patchlens.axes import Float
from patchlens.models.adapter import Adapter, Card
from patchlens.models.timing import even_spans

__all__ = ["Qwen2AudioAdapter"]


class Qwen2AudioAdapter(Adapter):
    """Qwen2-Audio: 25 tokens a second."""

    family: ClassVar[str] = "qwen2_audio"
    model_types: ClassVar[tuple[str, ...]] = ("qwen2_audio",)
    modalities: ClassVar[tuple[str, ...]] = ("audio", "text")
    card: ClassVar[Card] = Card(
        "25 tokens a second, in order of time",
        ("A recording is cut off after 30 seconds (the feature extractor's chunk_length).",),
    )

    def raw_prompt(self, processor: Any, text: str, images: int, audio: int) -> str:
        """Each recording between its marks; see `Adapter.raw_prompt`."""
        return f"{processor.audio_bos_token}{processor.audio_token}{processor.audio_eos_token}" * audio + text

    def spans(self, config: Any, processor: Any, samples: int) -> Float[Tensor, "token 2"]:
        """Four frames each, by a convolution and a pooling of stride 2; see `Adapter.spans`."""
        extractor = processor.feature_extractor
        frames = -(-min(samples, extractor.n_samples) // extractor.hop_length)
        tokens = ((frames - 1) // 2 + 1) // 2
        return even_spans(tokens, frames=4, ahead=1.0, second=extractor.sampling_rate / extractor.hop_length)
