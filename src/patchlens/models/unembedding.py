"""From a hidden state to logits: the final norm, then the head, once each."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from patchlens.axes import Float
from patchlens.models.offloading import computes_on

__all__ = ["Unembedding"]


class Unembedding:
    """A language model's final norm and output embeddings, with what its config does to the logits, if given.

    Equal to the model's own logits for the last block's output; loading proves it for each model.

    Args:
        final_norm: Between the last block and the head.
        head: The output embeddings.
        config: The language model's; None if it does nothing to the logits.
        codes: Entries of the vocabulary that stand for pieces of images; they get the lowest logit that there is, as in
            models that give answers in words.
    """

    def __init__(self, final_norm: nn.Module, head: nn.Module, config: Any, codes: Sequence[int] = ()) -> None:
        self._codes = torch.tensor(codes, dtype=torch.long)
        self.final_norm = final_norm
        self.head = head
        # Cohere and Falcon-H1 multiply, Granite and Inkling divide, Gemma 2, RecurrentGemma and xLSTM bound.
        factor = _setting(config, "logit_scale", "lm_head_multiplier")
        divisor = _setting(config, "logits_scaling", "logits_mup_width_multiplier")
        if config is not None and config.model_type == "hyperclovax":  # multiplies by what Granite divides by
            factor, divisor = divisor, None
        self._factor, self._divisor = factor or 1.0, divisor or 1.0
        self._softcap = _setting(config, "final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")

    @torch.no_grad()
    def logits(self, states: Float[Tensor, "token d_model"]) -> Float[Tensor, "token vocab"]:
        """Apply the final norm, then the unembedding.

        Args:
            states: Hidden states before the final norm, of any layer, on any device and of any float type.

        Returns:
            One logit per entry of the vocabulary, in the model's data type, on its device.
        """
        weight = next(self.head.parameters())
        logits: Tensor = self.head(self.final_norm(states.to(computes_on(self.head), weight.dtype)))
        # Each step only where the model takes it: a factor of one would be exact, but costs a pass over the
        # vocabulary.
        if self._factor != 1:
            logits = logits * self._factor
        if self._divisor != 1:
            logits = logits / self._divisor
        if self._softcap is not None:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        if len(self._codes):
            logits = logits.index_fill(-1, self._codes.to(logits.device), torch.finfo(logits.dtype).min)
        return logits


def _setting(config: Any, *names: str) -> float | None:
    """What is set under the first of the names that the config has."""
    return next((float(value) for name in names if (value := getattr(config, name, None)) is not None), None)
