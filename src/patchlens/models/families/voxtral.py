"""Voxtral: a Whisper encoder that hears chunks of 30 seconds, four of its frames to a token (80 ms).

Recordings are padded to whole chunks, and the padding has tokens too: they stand for the silence behind the end. Its
processor takes recordings only through the chat template of mistral-common's tokenizer, so the inputs are put together
here, as that template does: begin of audio, the audio tokens, the text.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from patchlens.axes import Float
from patchlens.models.adapter import Adapter, Card, Request
from patchlens.models.timing import even_spans

if TYPE_CHECKING:
    import patchlens.models.model

__all__ = ["VoxtralAdapter"]

_BEGIN = "[BEGIN_AUDIO]"


class VoxtralAdapter(Adapter):
    """Voxtral: 12.5 tokens a second."""

    family: ClassVar[str] = "voxtral"
    model_types: ClassVar[tuple[str, ...]] = ("voxtral",)
    modalities: ClassVar[tuple[str, ...]] = ("audio", "text")
    card: ClassVar[Card] = Card(
        "12.5 tokens a second, in order of time, up to the next full 30 s",
        (
            "Tokens behind a recording's end stand for the silence that pads it.",
            "Its own tokenizer needs mistral-common and has no chat template: a line with a recording is put between "
            "[INST] and [/INST], text alone is taken as it is.",
        ),
    )

    def raw_prompt(self, processor: Any, text: str, images: int, audio: int) -> str:
        """Each recording behind its mark; see `Adapter.raw_prompt`."""
        return f"{_BEGIN}{processor.audio_token}" * audio + text

    def spans(self, config: Any, processor: Any, samples: int) -> Float[Tensor, "token 2"]:
        """Some of the encoder's frames each, of two of the spectrogram; see `Adapter.spans`."""
        extractor, hearing = processor.feature_extractor, config.audio_config
        chunks = -(-samples // _chunk(config, processor))
        together = hearing.intermediate_size // hearing.hidden_size
        second = extractor.sampling_rate / extractor.hop_length
        return even_spans(chunks * hearing.max_source_positions // together, 2 * together, ahead=1.0, second=second)

    def process(
        self, model: "patchlens.models.model.Model", texts: list[str], requests: Sequence[Request]
    ) -> dict[str, Any]:
        """As the processor's `apply_chat_template` would; see `Adapter.process`."""
        processor, hearing = model.processor, model.config.audio_config
        rate = self.sampling_rate(processor)
        rows, features = [], []
        for text, request in zip(texts, requests, strict=True):
            counts = []
            for recording in request.audio:
                made = processor._retrieve_input_features(
                    [recording.at_rate(rate)],
                    2 * hearing.max_source_positions,
                    sampling_rate=rate,
                    padding=True,
                    truncation=False,
                    pad_to_multiple_of=_chunk(model.config, processor),
                    return_tensors="pt",
                )
                features.append(made)
                counts.append(
                    len(made) * hearing.max_source_positions * hearing.hidden_size // hearing.intermediate_size
                )
            rows.append(_ids(model, _instruction(model, text, request), counts))
        longest = max(map(len, rows))
        return {
            "input_ids": torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows]),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]),
            "input_features": torch.cat(features),
        }


def _chunk(config: Any, processor: Any) -> int:
    """Samples that the encoder hears at once; it makes one frame of two of the spectrogram."""
    return int(2 * config.audio_config.max_source_positions * processor.feature_extractor.hop_length)


def _instruction(model: "patchlens.models.model.Model", text: str, request: Request) -> str:
    """A line as the instruction that a chat template makes of it, where there is no template."""
    written = request.prompt.raw or model.processor.audio_token in request.prompt.text
    if written or getattr(model.tokenizer, "chat_template", None) is not None:
        return text
    return f"[INST]{text}[/INST]"


def _ids(model: "patchlens.models.model.Model", text: str, counts: Sequence[int]) -> list[int]:
    """Token ids of a text with marks, which mistral-common's tokenizer would take for plain words."""
    tokenizer, mark, left = model.tokenizer, model.processor.audio_token, iter(counts)
    marks = {*tokenizer.all_special_tokens, mark, _BEGIN, "[INST]", "[/INST]"}
    ids: list[int] = [] if text.startswith(tokenizer.bos_token) else [tokenizer.bos_token_id]
    for piece in re.split(f"({'|'.join(map(re.escape, sorted(marks, key=len, reverse=True)))})", text):
        if piece == mark:
            ids += [model.processor.audio_token_id] * next(left, 1)
        elif piece in marks:
            ids.append(tokenizer.convert_tokens_to_ids(piece))
        elif piece:
            ids += tokenizer(piece, add_special_tokens=False)["input_ids"]
    return ids
