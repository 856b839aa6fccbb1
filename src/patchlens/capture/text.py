"""The hidden state of a text's last token, as a bank would hold it: plain tokens through the language model."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from patchlens.axes import Float
from patchlens.models.hooks import observe
from patchlens.models.model import Model

__all__ = ["last_states"]


def last_states(model: Model, token_ids: Sequence[int], layers: Iterable[int]) -> dict[int, Float[Tensor, " d_model"]]:
    """The last token's state at some layers, from one plain forward pass.

    No chat template and no image: what a vision-language model's language model makes of the tokens alone.

    Args:
        model: Its blocks above the deepest layer are not run, nor its head.
        token_ids: Of one sequence, special ones included.
        layers: 0 is what enters the first block.

    Returns:
        By layer, on the CPU, in the type that the model computes in.
    """
    kept: dict[int, Tensor] = {}

    def keep(layer: int, state: Tensor) -> None:
        kept[layer] = state[0, -1].detach().cpu()

    ids = torch.tensor([list(token_ids)], device=model.device)
    with torch.inference_mode(), observe(model.blocks, tuple(layers), keep, then_stop=True):
        model.decoder(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return kept
