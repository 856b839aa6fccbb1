"""Lenses by name, for the command line and for whoever reads with several."""

from collections.abc import Callable
from pathlib import Path

from patchlens.bank.bank import Bank
from patchlens.errors import OptionError
from patchlens.lenses.embedding import EmbeddingLens
from patchlens.lenses.latent import LatentLens
from patchlens.lenses.lens import Lens
from patchlens.lenses.logit import LogitLens
from patchlens.models.model import Model

__all__ = ["LENSES", "make_lens"]

Maker = Callable[[Model, Bank | str | Path | None, bool], Lens]


def _latent(model: Model, bank: Bank | str | Path | None, allow_other_model: bool) -> Lens:
    if bank is None:
        raise OptionError(
            f"The latent lens of {model.name} needs a bank and none was given. Give a bank folder, build one with "
            "'patchlens bank build', or read with logit and embedding alone."
        )
    return LatentLens(bank, allow_other_model=allow_other_model)


LENSES: dict[str, Maker] = {
    "latent": _latent,
    "logit": lambda model, bank, other: LogitLens(model, allow_other_model=other),
    "embedding": lambda model, bank, other: EmbeddingLens(model, allow_other_model=other),
}
"""What makes each lens; a new lens is one line here. The order is the order of columns in views."""


def make_lens(
    name: str, model: Model, bank: Bank | str | Path | None = None, *, allow_other_model: bool = False
) -> Lens:
    """The lens of this name for this model.

    Raises:
        OptionError: No lens has this name, or the latent lens has no bank.
    """
    if name not in LENSES:
        raise OptionError(f"There is no lens called {name!r}. Known: {', '.join(LENSES)}.")
    return LENSES[name](model, bank, allow_other_model)
