"""A loaded model: its parts found once, by name. Knows nothing of files or families."""

import hashlib
import inspect
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
from patchlens.models.offloading import brought, computes_on
from patchlens.models.unembedding import Unembedding
from patchlens.provenance import JSON, Provenance

__all__ = ["Model", "text_decoder", "weights_fingerprint"]

# What transformers' decoders call these parts; the first that exists is it.
_BLOCKS = ("layers", "h", "blocks")
_NORMS = (
    *("norm", "final_norm", "final_layernorm", "final_layer_norm", "embedding_norm", "ln_f", "norm_f"),
    *("layer_norm", "layernorm", "ln_out", "out_norm"),
)

_ENCODER_BLOCKS = ("layers", "layer", "blocks", "h", "resblocks")
_PROJECTORS = (
    *("multi_modal_projector", "connector", "aligner", "merger", "language_projection", "embed_vision"),
    *("projector", "modality_projection", "vision_projection"),
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
    def config(self) -> Any:
        """The whole model's config; a VLM's holds those of its parts."""
        return self._network.config

    @property
    def n_layers(self) -> int:
        """Blocks of the language model; layers 0 to this number exist."""
        return len(self.blocks)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self._network.get_input_embeddings().weight.shape[1])

    @property
    def vocabulary(self) -> int:
        """Rows of the input embeddings: token ids are below it."""
        return int(self._network.get_input_embeddings().weight.shape[0])

    @property
    def dtype(self) -> torch.dtype:
        """The data type of the residual stream: that of the input embeddings."""
        found: torch.dtype = self._network.get_input_embeddings().weight.dtype
        return found

    @cached_property
    def encoder_blocks(self) -> list[nn.Module]:
        """The vision (or speech) encoder's blocks, in order.

        Raises:
            ModelIncomplete: It has none where we look.
        """
        kind = "image" if "image" in self.adapter.modalities else "audio"
        encoder: nn.Module = self._network.get_encoder(modality=kind)
        decoder = set(self.decoder.modules())
        for name, part in encoder.named_modules():
            if isinstance(part, nn.ModuleList) and name.rpartition(".")[2] in _ENCODER_BLOCKS and part not in decoder:
                return list(part)
        raise ModelIncomplete(
            f"No blocks were found in the {kind} encoder of {self.name} ({type(encoder).__name__}). Report this model "
            "type."
        )

    @cached_property
    def projector(self) -> nn.Module:
        """What brings the encoder's output into the language model.

        Raises:
            ModelIncomplete: It is not where we look.
        """
        for name, part in self.network.named_modules():
            if name.rpartition(".")[2] in _PROJECTORS:
                found: nn.Module = part
                return found
        raise ModelIncomplete(
            f"No projector was found in {type(self.network).__name__}: none of its modules is called "
            f"{', '.join(_PROJECTORS)}. Report this model type."
        )

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
        config = None if self.adapter.bare_head else self.decoder.config
        return Unembedding(self.final_norm, head, config, self.adapter.codes(self.config))

    @property
    def input_embeddings(self) -> Float[Tensor, "vocab d_model"]:
        """The vocabulary's embedding matrix, unscaled, where the model keeps it; a copy if that is not in memory."""
        embedding: Any = self._network.get_input_embeddings()
        weight: Tensor = embedding.weight
        if not weight.is_meta:
            return weight.detach()
        with brought(embedding):
            fetched: Tensor = embedding.weight.detach().clone()
        return fetched

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
        """Where the inputs go: the device on which they are embedded."""
        return computes_on(self._network.get_input_embeddings())

    @torch.no_grad()
    def run(self, inputs: Mapping[str, Tensor]) -> None:
        """Run the network for what hooks see of it; `observe(..., then_stop=True)` leaves it before the head.

        Text alone goes through the decoder, as a bank's sentences do: some networks demand an image.

        Args:
            inputs: As `prepare` gives them; what the network does not take is left out.
        """
        alone = self.adapter.modalities != ("text",) and set(inputs) <= {"input_ids", "attention_mask"}
        runs = self.decoder if alone else self.network
        runs(**self.accepted(inputs), **({"use_cache": False} if self._takes("use_cache") else {}))

    def accepted(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs that the network takes, on its device and in its data type."""
        return {name: self._ready(value) for name, value in inputs.items() if self._takes(name)}

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

    def _takes(self, name: str) -> bool:
        parameters = inspect.signature(self.network.forward).parameters
        return name in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())

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
    samples: dict[str, bytes] = {}
    once = {name for name, _ in decoder.named_parameters()}  # a tensor with two names has the first
    for prefix, module in decoder.named_modules():
        with brought(module):
            for name, parameter in module.named_parameters(prefix, recurse=False):
                if name not in once:
                    continue
                samples[name] = f"{name} {tuple(parameter.shape)}".encode() + _sample(parameter.detach())
    digest = hashlib.sha256()
    for _, sample in sorted(samples.items()):
        digest.update(sample)
    return digest.hexdigest()


def _sample(values: Tensor) -> bytes:
    flat = values.reshape(-1)
    count = min(_SAMPLES, len(flat))
    spaced = torch.arange(count) * (len(flat) - 1) // max(count - 1, 1)
    return flat[spaced.to(flat.device)].to(torch.bfloat16).cpu().view(torch.int16).numpy().tobytes()


def _part(decoder: nn.Module, names: tuple[str, ...], what: str) -> Any:
    for name in names:
        part = getattr(decoder, name, None)
        if part is not None:
            return part
    raise ModelIncomplete(
        f"No {what} was found in {type(decoder).__name__}: it has none of {', '.join(names)}. Report this model type."
    )
