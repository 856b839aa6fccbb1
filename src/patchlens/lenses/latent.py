"""LatentLens: which words in context a hidden state lies nearest to.

It searches a bank of contextual embeddings and does not know how the bank was built.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from patchlens.axes import Bool, Float
from patchlens.bank.bank import Bank, one_array, open_bank
from patchlens.capture.hidden_states import HiddenStates
from patchlens.errors import OptionError
from patchlens.lenses.lens import Columns, Lens
from patchlens.search import ExactIndex

__all__ = ["LatentLens"]


class LatentLens(Lens):
    """The k contexts of a bank with the highest cosine, in one ranking over all contextual layers.

    The contextual layer is free: a visual token at layer 0 may lie nearest to text at layer 8. Each candidate
    says which layer it came from, carries its whole word and sentence, and how far the model had read.

    Args:
        bank: An opened bank, its folder, or the name of an embedded one.
        layers: Contextual layers to search; None for all that the bank holds.
        space: Where cosines are taken: "raw", "centred" or "standardised"; see `ExactIndex`.
        unique: "word" for k different words, "sentence" for k different sentences; None ranks contexts as they come.
        share: Search a random part of the bank's rows only, as if it had been built smaller: above 0, at most 1.
        seed: Chooses that part; of one seed, a smaller part lies within every larger one.
        allow_other_model: Search the bank of another language model of the same width.

    Raises:
        OptionError: A layer that the bank lacks, or a share that leaves no row.

    Reference:
        arXiv 2602.00462, §3. Departures: exact search, and ties go to the lower layer, then the lower row.
    """

    name: ClassVar[str] = "latent"

    def __init__(
        self,
        bank: Bank | str | Path,
        *,
        layers: int | Iterable[int] | None = None,
        space: str = "raw",
        unique: str | None = None,
        share: float = 1.0,
        seed: int = 0,
        allow_other_model: bool = False,
    ) -> None:
        self.bank = open_bank(bank)
        self.layers = self.bank.layers if layers is None else _contextual(self.bank, layers)
        self.allow_other_model = allow_other_model
        self.unique = unique
        self.share = share
        self.seed = seed
        self._where = None if share == 1 else _part(self.bank, share, seed)
        self._index = ExactIndex(self.bank, self.layers, space=space)

    def _check(self, states: HiddenStates) -> None:
        self.bank.check(
            states.provenance.fingerprint,
            states.vectors.shape[-1],
            allow_other_model=self.allow_other_model,
            model=states.provenance.model,
        )

    def _candidates(self, vectors: Float[Tensor, "query d_model"], k: int) -> Columns:
        matches = self._index.search(vectors, k, unique=self.unique, where=self._where)
        rows = matches.rows.flatten().cpu().numpy()
        return {
            **context_columns(self.bank, rows),
            "similarity": pa.array(matches.similarities.flatten().cpu().numpy()),
            "context_layer": pa.array(matches.layers.flatten().cpu().numpy().astype(np.int32)),
        }

    def _made_with(self) -> dict[str, Any]:
        return {
            "bank": self.bank.name,
            "bank_rows": len(self.bank),
            "contextual_layers": list(self.layers),
            "space": self._index.space,
            "unique": self.unique,
            "share": self.share,
            "seed": self.seed,
            "bank_provenance": self.bank.provenance.to_json(),
        }


def context_columns(bank: Bank, rows: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> dict[str, pa.Array]:
    """Words, sentences and character spans of bank rows."""
    described = bank.describe(rows)
    names = ("word", "token", "sentence", "word_start", "word_end", "prefix_end")
    return {name: one_array(described[name]) for name in names} | {"bank_row": pa.array(rows)}


def _part(bank: Bank, share: float, seed: int) -> Bool[Tensor, " row"]:
    """Rows of a random part of a bank."""
    rows = round(len(bank) * share) if 0 < share <= 1 else 0
    if not rows:
        raise OptionError(
            f"A share of {share:g} of the {len(bank):,} rows of {bank.name} was asked for, which leaves none. Expected "
            "more than 0 and at most 1."
        )
    order = np.random.default_rng(seed).permutation(len(bank))
    chosen = torch.zeros(len(bank), dtype=torch.bool)
    chosen[torch.from_numpy(order[:rows])] = True
    return chosen


def _contextual(bank: Bank, layers: int | Iterable[int]) -> tuple[int, ...]:
    asked = [layers] if isinstance(layers, int) else list(layers)
    missing = [layer for layer in asked if layer not in bank.layers]
    if missing or not asked:
        raise OptionError(
            f"{f'Layer {missing[0]} is not in' if missing else 'No layer was named for'} the bank {bank.name}, which "
            f"holds the contextual layers {', '.join(map(str, bank.layers))}. Choose among them."
        )
    return tuple(sorted(set(asked)))
