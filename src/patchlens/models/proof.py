"""What a model must show before it is handed out: that its parts are where we look, and that they agree."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from patchlens.errors import ModelIncomplete, PatchlensError
from patchlens.inputs.audio import open_audio
from patchlens.inputs.image import open_image
from patchlens.inputs.prompt import open_prompt
from patchlens.models.adapter import Request
from patchlens.models.hooks import observe
from patchlens.models.model import Model
from patchlens.models.prepare import prepare

__all__ = ["prove"]

_TOLERANCE = 0.02
"""Of the largest logit: bfloat16 rounds to 0.4 %, and a forgotten norm or scale is off by far more. Of a state's
length: what comes later moves a causal model's by rounding at most."""


def prove(model: Model) -> None:
    """Check a model by running it on three tokens and, if it takes images or recordings, on a small one.

    Args:
        model: Freshly loaded.

    Raises:
        ModelIncomplete: A part is missing, states have the wrong shape or are not finite, our logits are not
            the model's, tokens see later ones, or the visual tokens do not fill the patch grid.
    """
    try:
        _prove_tokenizer(model)
        _prove_text(model)
        if model.processor is not None:
            _prove_media(model)
    except PatchlensError:
        raise
    except Exception as error:
        why = "Its weights, config and processor do not fit together; download or save the model again."
        if any(parameter.is_meta for parameter in model.network.parameters()):
            why = (
                "Part of its weights was left in main memory or on disk, which the code of some families does not "
                "bear. Choose more devices, a smaller data type, or 'cpu'."
            )
        raise ModelIncomplete(
            f"A first run of {model.name} failed: {type(error).__name__}: {_first_line(error)}. {why}"
        ) from error


def _prove_tokenizer(model: Model) -> None:
    ids = _three_tokens(model)
    rows = model.vocabulary
    if not ids or max(ids) >= rows:
        raise ModelIncomplete(
            f"The tokenizer of {model.name} gives the tokens {ids} for a few words, and the model has "
            f"embeddings for 0 to {rows - 1}. Its tokenizer files are missing or of another model; put "
            "tokenizer.json beside the weights."
        )


def _prove_text(model: Model) -> None:
    """The language model on its own, as a bank runs it."""
    seen: dict[int, Tensor] = {}
    ids = torch.tensor([_three_tokens(model)], device=model.device)
    text_only = model.adapter.modalities == ("text",)  # others may not run whole without an image
    with torch.no_grad(), observe(model.blocks, range(model.n_layers + 1), seen.__setitem__):
        if text_only:
            logits: Tensor = model.network(input_ids=ids, use_cache=False).logits[0]
        else:
            logits = torch.empty(0)
            model.decoder(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    _check_states(model, seen, ids.shape[1])
    _check_causal(model, ids, seen[model.n_layers][0])
    if text_only:
        _check_logits(model, seen[model.n_layers][0], logits)


def _prove_media(model: Model) -> None:
    """The whole model, on a small picture or a second of noise."""
    request = _a_request(model)
    prepared = prepare(model, [request])
    seen: dict[int, Tensor] = {}
    with torch.no_grad(), observe(model.blocks, range(model.n_layers + 1), seen.__setitem__):
        logits = model.network(**model.accepted(prepared.inputs)).logits[0]
    _check_states(model, seen, len(prepared.sequences[0].token_ids))
    _check_logits(model, seen[model.n_layers][0], logits)


def _a_request(model: Model) -> Request:
    prompt = open_prompt("Describe this.")
    if "image" in model.adapter.modalities:
        picture = open_image(Image.linear_gradient("L").resize((48, 32)), name="a test image")
        return Request(prompt, images=(picture,))
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    return Request(prompt, audio=(open_audio((noise, 16_000), name="a test recording"),))


def _check_logits(model: Model, states: Tensor, logits: Tensor) -> None:
    ours = model.unembedding.logits(states).to(logits.device)
    if codes := list(model.adapter.codes(model.config)):  # which some models bar, and we always do
        ours, logits = ours.clone(), logits.clone()
        ours[..., codes] = logits[..., codes] = 0
    difference = (ours.float() - logits.float()).abs().max()
    if not difference <= _TOLERANCE * logits.float().abs().max():
        raise ModelIncomplete(
            f"The logits of {model.name} are not its final norm and head applied to its last block: they "
            f"differ by {difference:.3g}. LogitLens would mislead; report this model type "
            f"({type(model.network).__name__})."
        )


def _check_states(model: Model, seen: dict[int, Tensor], tokens: int) -> None:
    for layer in range(model.n_layers + 1):
        _check_state(model, layer, seen.get(layer), (1, tokens, model.d_model))


def _check_state(model: Model, layer: int, state: Tensor | None, shape: tuple[int, ...]) -> None:
    if state is None or tuple(state.shape) != shape:
        found = "nothing" if state is None else f"a state of shape {tuple(state.shape)}"
        raise ModelIncomplete(
            f"Layer {layer} of {model.name} gave {found} for {shape[1]} tokens; expected {shape}. Report "
            f"this model type ({type(model.network).__name__})."
        )
    if not state.isfinite().all():
        raise ModelIncomplete(
            f"Layer {layer} of {model.name} gives NaN or infinity for ordinary tokens. Its weights are "
            "damaged, or overflow in this data type; download them again, or load with dtype='float32'."
        )


def _check_causal(model: Model, ids: Tensor, states: Tensor) -> None:
    """With another last token, the states before it must stay: a bank runs each prefix once for all sentences."""
    seen: dict[int, Tensor] = {}
    other = torch.cat([ids[:, :-1], ids[:, :1]], dim=1)
    with torch.no_grad(), observe(model.blocks, [model.n_layers], seen.__setitem__, then_stop=True):
        model.decoder(input_ids=other, attention_mask=torch.ones_like(other), use_cache=False)
    before = states[:-1].float()
    moved = (seen[model.n_layers][0, :-1].float() - before).norm(dim=-1)
    if (moved > _TOLERANCE * before.norm(dim=-1)).any():
        raise ModelIncomplete(
            f"{model.name} is not causal: its states at the first tokens change with a later one, so what it holds "
            "after a prefix depends on the rest of the sentence. Load a model whose tokens see only those before "
            "them."
        )


def _three_tokens(model: Model) -> list[int]:
    ids: list[int] = model.tokenizer("A cat sleeps on the sofa.")["input_ids"][:3]
    return ids


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")
