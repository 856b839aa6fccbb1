"""Qwen2-Audio: a Whisper encoder whose output is pooled by two; one token for four frames of the spectrogram (40 ms).

The tokens stand between two marks, in order of time. The feature extractor would cut off what is beyond its length
(30 s), so a longer recording is refused.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from patchlens.axes import Float
from patchlens.errors import AudioError
from patchlens.models.adapter import Adapter, Card, Request
from patchlens.models.timing import even_spans

if TYPE_CHECKING:
    import patchlens.models.model

__all__ = ["Qwen2AudioAdapter"]


class Qwen2AudioAdapter(Adapter):
    """Qwen2-Audio: 25 tokens a second."""

    family: ClassVar[str] = "qwen2_audio"
    model_types: ClassVar[tuple[str, ...]] = ("qwen2_audio",)
    modalities: ClassVar[tuple[str, ...]] = ("audio", "text")
    card: ClassVar[Card] = Card(
        "25 tokens a second, in order of time",
        ("A recording has at most 30 seconds (the feature extractor's chunk_length); a longer one is refused.",),
    )

    def raw_prompt(self, processor: Any, text: str, images: int, audio: int) -> str:
        """Each recording between its marks; see `Adapter.raw_prompt`."""
        return f"{processor.audio_bos_token}{processor.audio_token}{processor.audio_eos_token}" * audio + text

    def spans(self, config: Any, processor: Any, samples: int) -> Float[Tensor, "token 2"]:
        """Four frames each, by a convolution and a pooling of stride 2; see `Adapter.spans`."""
        extractor = processor.feature_extractor
        frames = -(-samples // extractor.hop_length)
        tokens = ((frames - 1) // 2 + 1) // 2
        return even_spans(tokens, frames=4, ahead=1.0, second=extractor.sampling_rate / extractor.hop_length)

    def process(
        self, model: "patchlens.models.model.Model", texts: list[str], requests: Sequence[Request]
    ) -> dict[str, Any]:
        """Only what the feature extractor takes whole; see `Adapter.process`."""
        rate, longest = self.sampling_rate(model.processor), model.processor.feature_extractor.n_samples
        for recording in (recording for request in requests for recording in request.audio):
            if (samples := len(recording.at_rate(rate))) > longest:
                raise AudioError(
                    f"Preparing '{recording.name}' of {samples / rate:.2f} s ({samples:,} samples) for "
                    f"{model.name}: it hears at most {longest / rate:.2f} s ({longest:,} samples). Cut the recording, "
                    "or capture it in parts."
                )
        return super().process(model, texts, requests)
