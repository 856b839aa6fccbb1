"""Run a model once and keep the hidden states that were asked for; nothing else is computed."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from patchlens.axes import Int
from patchlens.capture.hidden_states import HiddenStates
from patchlens.errors import NonFiniteStates, OptionError
from patchlens.inputs.image import ImageInput, open_image
from patchlens.models.adapter import Prepared
from patchlens.models.hooks import observe
from patchlens.models.model import Model
from patchlens.models.site import resolve_layers

if TYPE_CHECKING:
    import PIL.Image

__all__ = ["capture"]

_POSITIONS = ("visual", "text", "all")


def capture(
    model: Model,
    image: "str | Path | PIL.Image.Image | np.ndarray | ImageInput | None" = None,
    prompt: str = "Describe this image.",
    *,
    layers: str | int | Iterable[int] = "all",
    positions: str = "visual",
) -> HiddenStates:
    """Take the hidden states of one image and prompt.

    The head is never run, nor any block above the deepest wanted layer.

    Args:
        model: From `load_model`.
        image: Anything `open_image` takes; None for text alone.
        prompt: Plain text; see `Adapter.prepare` for what the family makes of it.
        layers: "all", a number, several, or text such as "0,4,8-12"; see `resolve_layers`. Layer 0 at visual
            tokens is the projector's output.
        positions: "visual" tokens, "text" tokens (special ones included), or "all".

    Returns:
        The states of those tokens at those layers, on the CPU.

    Raises:
        OptionError: A layer or a kind of position does not exist here.
        ImageError: The image cannot be used.
        PromptError: The prompt does not fit the model.
        NonFiniteStates: The model computed NaN or infinity.

    Example:
        >>> states = capture(model, "kitchen.jpg", layers="0,8")  # doctest: +SKIP
        >>> states.at(8).shape  # doctest: +SKIP
        torch.Size([576, 4096])
    """
    wanted = resolve_layers(layers, model.n_layers)
    opened = None if image is None else open_image(image)
    prepared = model.adapter.prepare(model, opened, prompt)
    rows = _wanted_positions(model, prepared, positions)
    vectors = _run(model, prepared, wanted, rows)
    _check_finite(model, vectors, wanted)
    return HiddenStates(
        vectors=vectors,
        layers=wanted,
        positions=rows,
        token_ids=prepared.token_ids[rows],
        visual=torch.isin(rows, prepared.visual_positions),
        grid=prepared.grid,
        image=opened,
        prompt=prompt,
        provenance=model.provenance(
            "hidden states",
            prompt=prompt,
            layers=list(wanted),
            positions=positions,
            image=None if opened is None else opened.sha256,
        ),
    )


def _wanted_positions(model: Model, prepared: Prepared, positions: str) -> Int[Tensor, " token"]:
    if positions not in _POSITIONS:
        raise OptionError(f"Cannot capture positions {positions!r}. Choose among {', '.join(_POSITIONS)}.")
    everything = torch.arange(len(prepared.token_ids))
    if positions == "all":
        return everything
    if positions == "text":
        return everything[~torch.isin(everything, prepared.visual_positions)]
    if len(prepared.visual_positions) == 0:
        raise OptionError(
            f"There are no visual tokens to capture from {model.name}: no image was given. Give an image to "
            "a vision-language model, or ask for positions='text'."
        )
    return prepared.visual_positions


def _run(model: Model, prepared: Prepared, layers: tuple[int, ...], rows: Int[Tensor, " token"]) -> Tensor:
    kept: dict[int, Tensor] = {}

    def keep(layer: int, state: Tensor) -> None:
        # Indexing copies, so later in-place work of the model cannot reach what is kept.
        kept[layer] = state[0, rows.to(state.device)].detach().cpu()

    with observe(model.blocks, layers, keep, then_stop=True):
        model.run(prepared.inputs)
    return torch.stack([kept[layer] for layer in layers])


def _check_finite(model: Model, vectors: Tensor, layers: tuple[int, ...]) -> None:
    for layer, states in zip(layers, vectors, strict=True):
        bad = ~states.isfinite().all(dim=-1)
        if bad.any():
            raise NonFiniteStates(
                f"{model.name} computed NaN or infinity at layer {layer}, for {int(bad.sum())} of {len(bad)} "
                f"tokens. The numbers overflow in {states.dtype}, or the weights are damaged; load the model "
                "with dtype='float32' and try again."
            )
