"""Many token sequences packed into one, kept apart by an explicit attention mask: which models bear that, and how.

A pack holds a trie of sequences in depth-first order, each shared prefix once. A position attends to its ancestors and
itself, and its depth is its position id, so its state is that of its prefix run alone. Layers whose attention slides or
goes by chunks have their window cut into the mask, by depth. Knows no plan and no bank.
"""

import inspect
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from patchlens.axes import Int
from patchlens.models.model import Model

__all__ = ["LARGEST_PACK", "explicit_masks", "packed_inputs", "why_not_packed"]

LARGEST_PACK = 4096
"""Positions that a pack may have: larger masks cost more than they save, and Llama 4 counts places from 8,192 on."""

_OBEDIENT = ("eager", "sdpa")
"""Attention implementations that take a mask [batch, head, query, key]; flash and flex kernels take other things."""

_BY_MASK = ("full_attention", "sliding_attention", "chunked_attention", "indexed_attention", "moe", "mlp")
"""Types of layers in which a token sees others through masked attention or not at all. Indexed attention keeps the
best-scored of the tokens that the mask shows. Not among them: linear attention, convolutions, and attention to whole
blocks of the sequence."""


def why_not_packed(model: Model, longest: int) -> str | None:
    """Say why sequences cannot share a pack, so that each must have a row of its own.

    Read off the model's structure, before anything is run. Sequences in rows of their own need nothing of the model but
    that it is causal.

    Args:
        model: A model that is causal when it is run alone, which loading proves.
        longest: Tokens of the longest sequence.

    Returns:
        None where explicit masks serve; else the reason, as a clause.
    """
    decoder: Any = model.decoder
    config: Any = decoder.config
    mixing = sorted(set(getattr(config, "layer_types", None) or ()) - {*_BY_MASK})
    if mixing:
        return f"its layers of type {', '.join(mixing)} let tokens see their neighbours, whatever the mask says"
    if any(isinstance(part, nn.Conv1d) for block in model.blocks for part in block.modules()):
        return "its convolutions along the sequence let tokens see their neighbours, whatever the mask says"
    taken = inspect.signature(decoder.forward).parameters
    for argument, named in (("attention_mask", "attention mask"), ("position_ids", "position ids")):
        if argument not in taken:
            return f"its decoder takes no {named}"
    if getattr(config, "alibi", False):
        return "its attention falls off with the distance between places (ALiBi)"
    if hasattr(config, "attention_layers"):  # GPT-Neo
        return "its attention has a mask of its own besides, which counts places in the sequence"
    if getattr(config, "attn_temperature_tuning", False) and config.floor_scale <= LARGEST_PACK:  # Llama 4
        return f"its attention is scaled by the place in the sequence from {config.floor_scale} on"
    code = vars(sys.modules[type(decoder).__module__])
    if not any(name.startswith("create_") and name.endswith("causal_mask") for name in code):
        return "its code makes its own attention masks, and may not take one as it is"
    if config._attn_implementation not in (None, *_OBEDIENT) and not decoder._can_set_attn_implementation():
        return f"its attention is {config._attn_implementation}, which takes no such masks and cannot be exchanged"
    widths = _widths(decoder)
    if longest > min(widths.values()) and len(widths) > 1 and "dict" not in _names_used(decoder):
        return (
            f"its decoder takes one mask for all layers, and some of these see {min(widths.values()):.0f} tokens only"
        )
    return _rope_changes(config, longest)


@contextmanager
def explicit_masks(model: Model) -> Iterator[None]:
    """Have attention computed by an implementation that takes explicit masks while the body runs.

    Args:
        model: Changed for that time only; flash and flex attention become sdpa, or eager where sdpa would not do.

    Yields:
        Nothing; the former implementation is back when the body ends, however it ends.
    """
    decoder: Any = model.decoder
    config: Any = decoder.config
    before = config._attn_implementation
    if before is None or before in _OBEDIENT:
        yield
        return
    # Under sdpa transformers leaves the soft cap of Gemma 2's scores out; flash, flex and eager attention have it.
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    within = {"": "sdpa" if decoder._supports_sdpa and not capped else "eager"}
    # Named one by one, since a plain name would be handed down to every part of a composite config, and stay there.
    parts = {name: getattr(config, name)._attn_implementation for name in config.sub_configs if getattr(config, name)}
    decoder.set_attn_implementation(parts | within)
    try:
        yield
    finally:
        decoder.set_attn_implementation(parts | {"": before})


def packed_inputs(
    model: Model,
    token_ids: Int[Tensor, "pack position"],
    depths: Int[Tensor, "pack position"],
    last: Int[Tensor, "pack position"],
) -> dict[str, Any]:
    """Make the decoder's arguments for packs of tries, to be used inside `explicit_masks`.

    Args:
        model: One that `why_not_packed` has no objection to.
        token_ids: Each trie in depth-first order; positions at a pack's end may be padding.
        depths: How many tokens stand before each in its own sequence.
        last: Where in its pack the last descendant of each token stands; its own place where it has none, as padding
            does.

    Returns:
        Keyword arguments on the model's device.
    """
    device = model.device
    longest = int(depths.max()) + 1  # before the move: reading a number back would make the host wait for the device
    depths, last = depths.to(device), last.to(device)
    return {
        "input_ids": token_ids.to(device),
        "position_ids": depths,
        "attention_mask": _masks(model, depths, _ancestors(last), longest),
        "use_cache": False,  # with a cache, some families guess at packing from the position ids and mask once more
    }


def _ancestors(last: Tensor) -> Tensor:
    """[pack, query, key]: in depth-first order, a token's descendants are those from it to its last one."""
    place = torch.arange(last.shape[1], device=last.device)
    return (place[None, :] <= place[:, None]) & (place[:, None] <= last[:, None, :])


def _masks(model: Model, depths: Tensor, visible: Tensor, longest: int) -> Tensor | dict[str, Tensor]:
    """One mask for all layers, or one for each layer type where a window is exceeded.

    By layer type as transformers' own `create_masks_for_generate` lays them out, for decoders that have several.
    """
    widths = _widths(model.decoder)
    if longest <= min(widths.values()):
        return _as_attention_takes_it(model, visible)
    masks = {
        kind: _as_attention_takes_it(model, visible & _near(kind, width, depths) if longest > width else visible)
        for kind, width in widths.items()
    }
    return masks if len(masks) > 1 else next(iter(masks.values()))


def _widths(decoder: Any) -> dict[str, float]:
    """How many tokens each type of layer sees, at most."""
    config = decoder.config
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds:  # one type for all layers; some configs have a window that the code leaves aside
        slides = "create_sliding_window_causal_mask" in _names_used(decoder)
        kinds = {"sliding_attention" if slides else "full_attention"}
    named = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
    return {kind: float(getattr(config, named.get(kind, ""), None) or math.inf) for kind in kinds}


def _names_used(decoder: nn.Module) -> tuple[str, ...]:
    """By the code of its forward, outside of comprehensions."""
    forward: Any = inspect.unwrap(type(decoder).forward)
    names: tuple[str, ...] = forward.__code__.co_names
    return names


def _near(kind: str, width: float, depths: Tensor) -> Tensor:
    query, key = depths[:, :, None], depths[:, None, :]
    return query // width == key // width if kind == "chunked_attention" else query - key < width


def _as_attention_takes_it(model: Model, visible: Tensor) -> Tensor:
    """Eager attention adds its mask to the scores, whatever its type: of a bool one it would add 0 and 1."""
    decoder: Any = model.decoder
    visible = visible[:, None]  # the same for all heads
    if decoder.config._attn_implementation == "sdpa":
        return visible
    dtype = model.dtype
    # Not infinity: families differ in what they add to it, and infinity less infinity is NaN.
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, torch.finfo(dtype).min)


def _rope_changes(config: Any, longest: int) -> str | None:
    """Rotary embeddings that are scaled by the longest sequence in the batch, its neighbours in the pack included."""
    parameters = getattr(config, "rope_parameters", None) or {}
    for rope in [parameters, *(value for value in parameters.values() if isinstance(value, Mapping))]:
        kind = rope.get("rope_type")
        if kind not in ("dynamic", "longrope"):
            continue
        limit: int = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        if longest > limit:
            return f"its position embeddings ({kind}) change once a sequence in the batch is longer than {limit} tokens"
    return None
