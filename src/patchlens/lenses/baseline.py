"""What chance would say: random rows of a bank in place of the nearest."""

from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from torch import Tensor

from patchlens.axes import Float
from patchlens.bank.bank import Bank
from patchlens.capture.hidden_states import HiddenStates
from patchlens.errors import OptionError
from patchlens.lenses.latent import context_columns
from patchlens.lenses.lens import Columns, Lens

__all__ = ["RandomLens"]


class RandomLens(Lens):
    """k different rows of the bank for every hidden state, drawn at random and without a look at it.

    A corpus speaks often of some things, so a share of hits comes for free; this baseline says how large it is.

    Args:
        bank: Where the rows come from.
        seed: The same seed gives the same rows for the same sequence of reads; each read draws anew.
    """

    name: ClassVar[str] = "random"

    def __init__(self, bank: Bank, *, seed: int = 0) -> None:
        self.bank = bank
        self.seed = seed
        self._rng = np.random.default_rng(seed)

    def _check(self, states: HiddenStates) -> None:
        """Any states will do: they are not looked at."""

    def _candidates(self, vectors: Float[Tensor, "query d_model"], k: int) -> Columns:
        if k > len(self.bank):
            raise OptionError(
                f"{k} different rows were asked of a bank of {len(self.bank)}. Ask for at most that many."
            )
        if 4 * k > len(self.bank):  # drawing again until all differ would take long, or for ever
            rows = np.argsort(self._rng.random((len(vectors), len(self.bank))), axis=1)[:, :k]
        else:
            rows = self._rng.integers(len(self.bank), size=(len(vectors), k))
        while len(twice := np.flatnonzero((np.diff(np.sort(rows, axis=1), axis=1) == 0).any(axis=1))):
            rows[twice] = self._rng.integers(len(self.bank), size=(len(twice), k))
        return context_columns(self.bank, rows.reshape(-1).astype(np.int64)) | {
            "similarity": pa.nulls(rows.size, pa.float32())
        }

    def _made_with(self) -> dict[str, Any]:
        return {"bank": self.bank.name, "bank_rows": len(self.bank), "seed": self.seed}
