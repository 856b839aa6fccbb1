"""Granite Speech: a Q-Former asks each window of a conformer's frames a few questions; a token stands for its window.

With the usual settings 3 tokens look at the same 15 frames, 0.3 s of sound. Speech checkpoints come with a LoRA of the
language model, which transformers switches on and off inside `generate`; here it is always on, for text too, so that
all states are of one network.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from patchlens.axes import Float
from patchlens.errors import AudioError, MissingExtra
from patchlens.models.adapter import Adapter, Card, Request
from patchlens.models.timing import even_spans

if TYPE_CHECKING:
    import patchlens.models.model

__all__ = ["GraniteSpeechAdapter"]


class GraniteSpeechAdapter(Adapter):
    """Granite Speech: 10 tokens a second, three to a window."""

    family: ClassVar[str] = "granite_speech"
    model_types: ClassVar[tuple[str, ...]] = ("granite_speech", "granite_speech_plus")
    modalities: ClassVar[tuple[str, ...]] = ("audio", "text")
    card: ClassVar[Card] = Card(
        "three tokens for each window of 0.3 s, which all look at the whole window",
        (
            "The speech LoRA, where the checkpoint has one, is always on, for text alone and for banks too "
            "(transformers' generate() would switch it off without a recording). It needs peft.",
            "Preparing recordings needs torchaudio.",
            "Its encoder sees padding: prompts run one at a time, and of two recordings in one prompt the shorter is "
            "heard with silence behind it.",
        ),
    )
    alone: ClassVar[bool] = True
    bare_head: ClassVar[bool] = True

    def load_processor(self, place: str, **options: Any) -> Any:
        """Its spectrogram is torchaudio's; see `Adapter.load_processor`."""
        try:
            return super().load_processor(place, **options)
        except ImportError as error:
            raise MissingExtra(
                "Preparing recordings for Granite Speech needs torchaudio: pip install torchaudio."
            ) from error

    def spans(self, config: Any, processor: Any, samples: int) -> Float[Tensor, "token 2"]:
        """The window of each; see `Adapter.spans`."""
        settings = processor.audio_processor.melspec_kwargs
        mels = samples // settings["hop_length"] + 1
        windows = -(-(mels // 2) // config.window_size)  # of frames of two mels each
        second = settings["sample_rate"] / settings["hop_length"]
        spans = even_spans(windows, frames=2 * config.window_size, ahead=0.5, second=second)
        return spans.repeat_interleave(config.window_size // config.downsample_rate, dim=0)

    def process(
        self, model: "patchlens.models.model.Model", texts: list[str], requests: Sequence[Request]
    ) -> dict[str, Any]:
        """With the LoRA on, which the first recording proves while loading; see `Adapter.process`."""
        network: Any = model.network
        if model.config.has_lora_adapter:
            if not getattr(network, "_hf_peft_config_loaded", False):
                raise MissingExtra(
                    f"{model.name} comes with a LoRA for speech, and it is not loaded: without it the language model "
                    "does not understand recordings. Install peft (pip install peft), put adapter_config.json and the "
                    "adapter's weights beside the model's, and load it again."
                )
            network.enable_adapters()
        shortest = model.processor.audio_processor.melspec_kwargs["n_fft"] // 2 + 1  # to mirror at either end
        for recording in (recording for request in requests for recording in request.audio):
            if len(recording.at_rate(self.sampling_rate(model.processor))) < shortest:
                raise AudioError(
                    f"Preparing '{recording.name}' of {1000 * recording.seconds:.0f} ms for {model.name}: its "
                    f"spectrogram needs at least {shortest} samples. Give a longer recording."
                )
        return super().process(model, texts, requests)

    def generate(self, network: Any, inputs: dict[str, Tensor], tokens: int) -> Tensor:
        """Past the model's own `generate`, which toggles the LoRA and leaves it so; see `Adapter.generate`."""
        from transformers import GenerationMixin

        answer: Tensor = GenerationMixin.generate(
            network, **inputs, max_new_tokens=tokens, do_sample=False, num_beams=1
        )
        return answer
