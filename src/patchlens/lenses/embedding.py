"""EmbeddingLens: which input embeddings a hidden state lies nearest to."""

from typing import Any, ClassVar

import pyarrow as pa
import torch
from torch import Tensor

from patchlens.axes import Float
from patchlens.capture.hidden_states import HiddenStates
from patchlens.lenses.lens import Columns, Lens, refuse_other_model
from patchlens.lenses.logit import token_columns
from patchlens.models.model import Model
from patchlens.search import ExactIndex, MemoryRows

__all__ = ["EmbeddingLens"]


class EmbeddingLens(Lens):
    """The k vocabulary tokens whose input embeddings have the highest cosine with the state.

    Equal similarities go to the lower token id. Where pieces of images are vocabulary too (Chameleon), their rows are
    left out: such a token would find nothing but itself.

    Args:
        model: The model that the hidden states come from.
        allow_other_model: Read states of another language model of the same width.

    Reference:
        arXiv 2602.00462, §3. Its reference code matches neighbours with the caption; nothing is filtered here.
    """

    name: ClassVar[str] = "embedding"

    def __init__(self, model: Model, *, allow_other_model: bool = False) -> None:
        self.model = model
        self.allow_other_model = allow_other_model
        embeddings = model.input_embeddings
        codes = torch.tensor(model.adapter.codes(model.config), dtype=torch.long)
        self._tokens = torch.arange(len(embeddings))
        self._tokens = self._tokens[~torch.isin(self._tokens, codes)]
        words = embeddings if not len(codes) else embeddings[self._tokens.to(embeddings.device)]
        self._index = ExactIndex(MemoryRows((0,), (words,)))

    def _check(self, states: HiddenStates) -> None:
        refuse_other_model(self.name, self.model, states, self.allow_other_model)

    def _candidates(self, vectors: Float[Tensor, "query d_model"], k: int) -> Columns:
        matches = self._index.search(vectors, k)
        tokens = self._tokens[matches.rows.flatten().cpu()].numpy()
        return {
            **token_columns(self.model, tokens),
            "similarity": pa.array(matches.similarities.flatten().cpu().numpy()),
        }

    def _made_with(self) -> dict[str, Any]:
        return {"model": self.model.name, "model_fingerprint": self.model.fingerprint}
