"""LogitLens: what the model would say next if its remaining blocks were skipped.

It asks the model for its final norm and unembedding, and knows neither.
"""

from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from patchlens.axes import Float, Int
from patchlens.capture.hidden_states import HiddenStates
from patchlens.errors import NonFiniteStates, OptionError
from patchlens.lenses.lens import Columns, Lens, refuse_other_model
from patchlens.lenses.words import pieces_and_words
from patchlens.models.model import Model

__all__ = ["LogitLens"]

CHUNK_BYTES = 64 * 2**20
"""Most that tokens × vocab float32 logits take at a time."""


class LogitLens(Lens):
    """Final norm, then unembedding, each exactly once; the k tokens with the highest logits.

    At the last layer these are the model's own next-token logits. Equal logits (common in bfloat16) go to
    the lower token id.

    Args:
        model: The model that the hidden states come from.
        allow_other_model: Read states of another language model of the same width.

    Reference:
        nostalgebraist, "interpreting GPT: the logit lens" (2020); arXiv 2602.00462, §3.
    """

    name: ClassVar[str] = "logit"

    def __init__(self, model: Model, *, allow_other_model: bool = False) -> None:
        self.model = model
        self.allow_other_model = allow_other_model

    def _check(self, states: HiddenStates) -> None:
        refuse_other_model(self.name, self.model, states, self.allow_other_model)

    def _candidates(self, vectors: Float[Tensor, "query d_model"], k: int) -> Columns:
        vocab = self.model.vocabulary
        chunk = max(1, CHUNK_BYTES // (4 * vocab))
        with torch.inference_mode():
            parts = [self._top(part, k) for part in torch.split(vectors, chunk)]
        tokens = torch.cat([part[0] for part in parts]).flatten().numpy()
        logits = torch.cat([part[1] for part in parts]).flatten().numpy()
        return {**token_columns(self.model, tokens), "logit": pa.array(logits)}

    def _top(
        self, vectors: Float[Tensor, "query d_model"], k: int
    ) -> tuple[Int[Tensor, "query k"], Float[Tensor, "query k"]]:
        logits = self.model.unembedding.logits(vectors.to(self.model.device)).float()
        if k > logits.shape[-1]:
            raise OptionError(
                f"LogitLens was asked for {k:,} candidates; the vocabulary has {logits.shape[-1]:,} tokens. "
                "Ask for fewer."
            )
        if not torch.isfinite(logits).all():
            raise NonFiniteStates(
                "Unembedding these hidden states gave NaN or infinite logits. Load the model with dtype "
                "bfloat16 or float32; float16 overflows in some."
            )
        tokens = top_tokens(logits, k)
        return tokens.cpu(), logits.gather(1, tokens).cpu()

    def _made_with(self) -> dict[str, Any]:
        return {"model": self.model.name, "model_fingerprint": self.model.fingerprint}


def top_tokens(logits: Float[Tensor, "query vocab"], k: int) -> Int[Tensor, "query k"]:
    """Token ids of the k highest logits, highest first; equal logits by lower id.

    `torch.topk` alone leaves open which of several equal logits it returns, and in what order.

    Example:
        >>> top_tokens(torch.tensor([[1.0, 3.0, 2.0, 3.0, 2.0]]), 3)
        tensor([[1, 3, 2]])
    """
    vocab = logits.shape[-1]
    values, tokens = logits.topk(min(k + 1, vocab))
    if vocab > k:
        tied = values[:, k] == values[:, k - 1]
        tokens = tokens[:, :k].clone()
        if tied.any():
            among = logits[tied]
            # Above the k-th: 2 * vocab - id; equal to it: vocab - id. All different, so the set is fixed.
            bar = values[tied, k - 1 : k]
            key = ((among > bar).long() + (among >= bar).long()) * vocab - torch.arange(vocab, device=logits.device)
            tokens[tied] = key.topk(k).indices
    tokens = tokens.sort().values
    order = logits.gather(1, tokens).sort(dim=1, descending=True, stable=True).indices
    return tokens.gather(1, order)


def token_columns(model: Model, tokens: "np.ndarray[Any, np.dtype[np.int64]]") -> dict[str, pa.Array]:
    """Word and token columns for vocabulary ids; each distinct id is decoded once."""
    distinct, codes = np.unique(tokens, return_inverse=True)
    pieces, words = pieces_and_words(model.tokenizer, distinct.tolist())
    indices = pa.array(codes.reshape(-1).astype(np.int32))
    # Two ids may read the same; a dictionary holds each text once.
    return {
        name: pa.DictionaryArray.from_arrays(indices, pa.array(texts)).cast(pa.string()).dictionary_encode()
        for name, texts in (("word", words), ("token", pieces))
    }
