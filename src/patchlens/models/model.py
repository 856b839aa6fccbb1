"""A loaded model: its parts found once, by name. Knows nothing of files or families."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from patchlens import __version__
from patchlens.axes import Float
from patchlens.errors import ModelIncomplete
from patchlens.models.adapter import Adapter
from patchlens.models.unembedding import Unembedding
from patchlens.provenance import JSON, Provenance

__all__ = ["Model", "text_decoder", "weights_fingerprint"]

# What transformers' decoders call these parts; the first that exists is it.
_BLOCKS = ("layers", "h", "blocks")
_NORMS = (
    *("norm", "final_norm", "final_layernorm", "final_layer_norm", "embedding_norm", "ln_f", "norm_f"),
    *("layer_norm", "layernorm", "ln_out", "out_norm"),
)

_SAMPLES = 64
"""Values per tensor that enter a fingerprint: enough to tell two trainings apart, quick for any size."""


@dataclass(frozen=True, eq=False)
class Model:
    """A language model, with its vision encoder and projector if it has them, ready to be looked into."""

    name: str
    """As it was asked for: an embedded name, a folder or a Hub id."""

    revision: str | None
    """The Hub commit; None for folders and embedded models."""

    network: nn.Module
    """The transformers model, in evaluation mode, needing no gradient."""

    tokenizer: Any
    """The transformers tokenizer."""

    processor: Any
    """The transformers processor of a vision-language model; None for text alone."""

    adapter: Adapter
    """What answers for the family."""

    fingerprint: str
    """Of the language model's weights: equal for a language model alone and inside a VLM."""

    loading: dict[str, JSON] | None = None
    """What another process gives `load_model` to have the same model; None for one that was made in memory."""

    def __repr__(self) -> str:
        return f"<Model {self.name}: {self.adapter.family}, {self.n_layers} blocks, d_model {self.d_model}>"

    @cached_property
    def decoder(self) -> nn.Module:
        """The text decoder: embeddings, blocks and final norm, without the head."""
        return text_decoder(self.network)

    @cached_property
    def blocks(self) -> list[nn.Module]:
        """The decoder's blocks, in order; `blocks[i - 1]` gives layer i."""
        return list(_part(self.decoder, _BLOCKS, "blocks"))

    @property
    def n_layers(self) -> int:
        """Blocks of the language model; layers 0 to this number exist."""
        return len(self.blocks)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.input_embeddings.shape[1])

    @cached_property
    def final_norm(self) -> nn.Module:
        """The norm between the last block and the head; the identity where blocks end in one, which loading proves."""
        named = (getattr(self.decoder, name, None) for name in _NORMS)
        return next((norm for norm in named if norm is not None), nn.Identity())

    @cached_property
    def unembedding(self) -> Unembedding:
        """From hidden states to logits."""
        head: nn.Module | None = self._network.get_output_embeddings()
        if head is None:
            raise ModelIncomplete(
                f"{self.name} has no output embeddings, so its states cannot become logits. Load a language "
                "model with its head (a class that ends in ForCausalLM or ForConditionalGeneration)."
            )
        return Unembedding(self.final_norm, head, self.decoder.config)

    @property
    def input_embeddings(self) -> Float[Tensor, "vocab d_model"]:
        """The vocabulary's embedding matrix, unscaled, on the model's device."""
        weight: Tensor = self._network.get_input_embeddings().weight
        return weight.detach()

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """Of the vocabulary and of all that decides how text is cut; padding and truncation left out."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        parts = {} if backend is None else json.loads(backend.to_str())
        # Calls to the tokenizer change these two, and they do not change which tokens a text has.
        for state in ("padding", "truncation"):
            parts.pop(state, None)
        parts["vocabulary"] = self.tokenizer.get_vocab()
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def device(self) -> torch.device:
        """Where the inputs go: the device of the input embeddings."""
        return self.input_embeddings.device

    @torch.no_grad()
    def run(self, inputs: Mapping[str, Tensor]) -> None:
        """Run the network without its head, for what hooks see of it.

        Args:
            inputs: As `Adapter.prepare` gives them.
        """
        backbone: nn.Module = self._network.base_model
        backbone(**{name: self._ready(value) for name, value in inputs.items()}, use_cache=False)

    def provenance(self, kind: str, **settings: JSON) -> Provenance:
        """Say how something made with this model was made.

        Args:
            kind: What is made: "hidden states", "bank" …
            **settings: What the person chose.
        """
        return Provenance(
            kind=kind,
            model=self.name,
            revision=self.revision,
            fingerprint=self.fingerprint,
            tokenizer=self.tokenizer_fingerprint,
            versions={
                "patchlens": __version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
            settings=settings,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @property
    def _network(self) -> Any:
        """The network, for what only transformers' modules have."""
        return self.network

    def _ready(self, value: Tensor) -> Tensor:
        return value.to(self.device, self._network.dtype if value.is_floating_point() else None)


def text_decoder(network: nn.Module) -> nn.Module:
    """Find the text decoder inside any language model or VLM of transformers.

    Args:
        network: The whole model.

    Raises:
        ModelIncomplete: None of its modules has a list of blocks.
    """
    found: Any = network
    while hasattr(found, "get_decoder") and found.get_decoder() is not found:
        found = found.get_decoder()
    for candidate in (found, getattr(found, "decoder", None), getattr(found, "model", None)):
        if isinstance(candidate, nn.Module) and any(hasattr(candidate, name) for name in _BLOCKS):
            return candidate
    raise ModelIncomplete(
        f"No text decoder was found in {type(network).__name__}: none of its modules holds blocks under "
        f"{', '.join(_BLOCKS)}. Report this model type."
    )


def weights_fingerprint(decoder: nn.Module) -> str:
    """Hash a sample of a text decoder's weights.

    Names are relative to the decoder and values are rounded to bfloat16, so the same language model has one
    fingerprint alone, inside a VLM, and in float32 as in bfloat16. In float16 it may have another: weights stored in
    float32 are then rounded twice.

    Args:
        decoder: What `text_decoder` found.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(decoder.named_parameters()):
        flat = parameter.detach().reshape(-1)
        count = min(_SAMPLES, len(flat))
        spaced = torch.arange(count) * (len(flat) - 1) // max(count - 1, 1)
        sample = flat[spaced.to(flat.device)].to(torch.bfloat16).cpu()
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        digest.update(sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def _part(decoder: nn.Module, names: tuple[str, ...], what: str) -> Any:
    for name in names:
        part = getattr(decoder, name, None)
        if part is not None:
            return part
    raise ModelIncomplete(
        f"No {what} was found in {type(decoder).__name__}: it has none of {', '.join(names)}. Report this model type."
    )
