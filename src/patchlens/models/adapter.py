"""The few questions that every model family answers, with the answers that most give. It knows no family.

A family is a file in `families/` (or in a package of your own, by entry point): docs/adapters.md shows one.
"""

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from patchlens.axes import Float, Int
from patchlens.errors import ModelIncomplete
from patchlens.inputs.audio import AudioInput
from patchlens.inputs.image import ImageInput
from patchlens.inputs.prompt import Prompt
from patchlens.inputs.video import VideoInput
from patchlens.models.token_map import Tile, TokenMap

if TYPE_CHECKING:
    import patchlens.models.model

__all__ = ["Adapter", "Card", "Prepared", "PreparedPrompt", "Request"]


@dataclass(frozen=True)
class Request:
    """One prompt with all that is shown and played with it."""

    prompt: Prompt
    images: tuple[ImageInput, ...] = ()
    audio: tuple[AudioInput, ...] = ()
    videos: tuple[VideoInput, ...] = ()


@dataclass(frozen=True, eq=False)
class PreparedPrompt:
    """One request as the language model will see it."""

    token_ids: Int[Tensor, " position"]
    """The whole sequence, with one placeholder per visual token."""

    tokens: TokenMap
    """What each position holds."""

    sources: tuple[ImageInput | AudioInput, ...]
    """What the map's source numbers mean."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """Some requests, ready for a model: a batch, padded to the right, on the CPU."""

    inputs: dict[str, Tensor]
    """What `network(**inputs)` takes."""

    sequences: tuple[PreparedPrompt, ...]
    """Row by row, without the padding."""


@dataclass(frozen=True)
class Card:
    """What `patchlens models` says of a family besides its types."""

    geometry: str = ""
    """Where its visual tokens lie, in a few words; empty without visual tokens."""

    notes: tuple[str, ...] = field(default=())
    """What a user should know when reading it."""


class Adapter(ABC):
    """What patchlens has to know about one family of models. Leaves are not subclassed."""

    family: ClassVar[str]
    """Name shown to people."""

    model_types: ClassVar[tuple[str, ...]]
    """The `model_type` values of config.json that it serves."""

    modalities: ClassVar[tuple[str, ...]]
    """What it takes: some of "image", "video", "audio" and "text"."""

    card: ClassVar[Card] = Card()

    beside_sequence: ClassVar[bool] = False
    """The visual states are not part of the sequence: blocks look at them by cross-attention, and they have layer 0
    alone. Then `visual_module` and `visual_map` answer for them."""

    alone: ClassVar[bool] = False
    """Prompts run one at a time: in a batch, their recordings or images would change one another's states."""

    bare_head: ClassVar[bool] = False
    """The head's output is the logits: how the language model's config scales and bounds them is left out."""

    # ------------------------------------------------------------------ loading

    def load_processor(self, place: str, **options: Any) -> Any:
        """Load the processor that is saved with a model.

        Args:
            place: Its folder or Hub id.
            **options: For transformers.
        """
        from transformers import AutoProcessor

        return AutoProcessor.from_pretrained(place, **options)

    def settle(self, network: nn.Module) -> None:
        """Set in a freshly loaded network what must not depend on how it was loaded. Most leave nothing open."""
        return

    # ------------------------------------------------------------------ positions

    def image_token_id(self, config: Any, processor: Any) -> int:
        """The vocabulary id that stands at visual tokens."""
        return _known(config, "image_token_id", "image_token_index")

    def audio_token_id(self, config: Any, processor: Any) -> int:
        """The vocabulary id that stands at tokens of a recording."""
        return _known(config, "audio_token_id", "audio_token_index")

    def video_token_id(self, config: Any, processor: Any) -> int:
        """The vocabulary id that stands at tokens of a video."""
        return _known(config, "video_token_id", "video_token_index")

    def placeholder(self, processor: Any, kind: str) -> str:
        """The text that one image or recording has in a prompt, before the processor repeats it.

        Args:
            processor: The model's.
            kind: "image", "audio" or "video".
        """
        return str(getattr(processor, f"{kind}_token"))

    # ------------------------------------------------------------------ geometry

    def tiles(self, config: Any, processor: Any, size: tuple[int, int], images: int) -> tuple[Tile, ...] | None:
        """How an image becomes visual tokens, in sequence order.

        From config and settings alone, without running anything: what comes out is compared with what the processor
        made, for every image.

        Args:
            config: The model's whole config.
            processor: The model's.
            size: (height, width) of the original upright image, in pixels.
            images: How many images the prompt has; some families cut a single one finer.

        Returns:
            The tiles, which have as many placeholders as the image has in the sequence; None where no geometry is
            known, or there is none.
        """
        return None

    def spans(self, config: Any, processor: Any, samples: int) -> Float[Tensor, "token 2"] | None:
        """From when to when each token of a recording stands for, in seconds; None where that is not known.

        Args:
            config: The model's whole config.
            processor: The model's.
            samples: Length of the recording, at the rate that the processor takes.
        """
        return None

    def video_grid(self, config: Any, inputs: dict[str, Tensor], video: int) -> tuple[int, int, int]:
        """How many moments a video became, and of how many rows and columns each; each shows the whole frame.

        Args:
            config: The model's whole config.
            inputs: What the processor made.
            video: Which video of the prompt.
        """
        raise NotImplementedError  # asked only of families whose modalities say "video"

    def sampling_rate(self, processor: Any) -> int:
        """How many samples a second of a recording the processor takes."""
        extractor = getattr(processor, "feature_extractor", None) or processor.audio_processor
        return int(extractor.sampling_rate)

    # ------------------------------------------------------------------ prompting

    def raw_prompt(self, processor: Any, text: str, images: int, audio: int) -> str:
        """A line with its placeholders, for a model without chat template."""
        counts = {"image": images, "audio": audio}
        marks = [self.placeholder(processor, kind) for kind, count in counts.items() for _ in range(count)]
        return "\n".join([*marks, text])

    def process(
        self, model: "patchlens.models.model.Model", texts: list[str], requests: Sequence[Request]
    ) -> dict[str, Any]:
        """Run the processor on a batch.

        Args:
            model: Its processor is used; its network is not run.
            texts: One per request, with placeholders.
            requests: What goes with them.

        Returns:
            All that the network takes, padded to the right, `input_ids` and `attention_mask` among it.
        """
        from patchlens.models.prepare import adds_special_tokens

        media: dict[str, Any] = {}
        if requests[0].images:
            media["images"] = [[image.pixels for image in request.images] for request in requests]
        if requests[0].audio:
            rate = self.sampling_rate(model.processor)
            media["audio"] = [audio.at_rate(rate) for request in requests for audio in request.audio]
            media["sampling_rate"] = rate
        if requests[0].videos:
            given = [video for request in requests for video in request.videos]
            media["videos"] = [np.stack([np.asarray(frame.pixels) for frame in video.frames]) for video in given]
            media["do_sample_frames"] = False
            media["video_metadata"] = [
                {"total_num_frames": len(v.frames), "fps": v.fps, "frames_indices": list(range(len(v.frames)))}
                for v in given
            ]
        made = model.processor(
            text=texts,
            **media,
            return_tensors="pt",
            padding=True,
            padding_side="right",
            add_special_tokens=adds_special_tokens(model.tokenizer, texts[0]),
            **self.settings(model.processor),
        )
        return dict(made)

    def settings(self, processor: Any) -> dict[str, Any]:
        """What `process` calls the processor with besides."""
        return {}

    def continued(self, inputs: dict[str, Tensor], answer: Int[Tensor, "1 answer"]) -> dict[str, Tensor]:
        """The inputs of one sequence with an answer behind it; what says the kind of each token says text for it."""
        longer = dict(inputs)
        length = inputs["input_ids"].shape[1]
        for name, value in inputs.items():
            if name == "input_ids":
                longer[name] = torch.cat([value, answer], dim=1)
            elif name in _PER_TOKEN and value.shape == (1, length):
                filling = 1 if name == "attention_mask" else 0
                longer[name] = torch.cat([value, torch.full_like(answer, filling, dtype=value.dtype)], dim=1)
        return longer

    def generate(self, network: Any, inputs: dict[str, Tensor], tokens: int) -> Tensor:
        """Let the network answer one prompt, greedily.

        Args:
            network: The model's.
            inputs: What it accepts of what `process` gave.
            tokens: At most so many.

        Returns:
            Token ids of shape [1, token]: the answer, with or without the prompt before it.
        """
        answer: Tensor = network.generate(**inputs, max_new_tokens=tokens, do_sample=False, num_beams=1)
        return answer

    # ------------------------------------------------------------------ lenses

    def codes(self, config: Any) -> Sequence[int]:
        """Vocabulary ids that stand for pieces of images and not for words; lenses leave them out."""
        return ()

    def visual_module(self, network: nn.Module) -> nn.Module:
        """The module whose output is the visual states, of shape [..., d_model]; asked only if `beside_sequence`."""
        raise NotImplementedError

    def visual_map(self, config: Any, processor: Any, request: Request) -> TokenMap:
        """What the rows of that output stand for; asked only if `beside_sequence`."""
        raise NotImplementedError


_PER_TOKEN = ("attention_mask", "token_type_ids", "mm_token_type_ids", "position_ids")
"""Inputs with a value for each token of the sequence."""


def _known(config: Any, *names: str) -> int:
    for name in names:
        if (found := getattr(config, name, None)) is not None:
            return int(found)
    raise ModelIncomplete(
        f"The config of this {config.model_type} model names no {names[0]}, so its visual tokens cannot be found. "
        f"Set {names[0]} in config.json to the id of the placeholder."
    )
