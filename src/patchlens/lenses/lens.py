"""What every lens is: hidden states in, readings out.

It does not know how a lens finds its words; each lens is one file beside this one.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from patchlens.axes import Float
from patchlens.capture.hidden_states import HiddenStates
from patchlens.errors import NonFiniteStates, OptionError, StatesError
from patchlens.inputs.image import ImageInput
from patchlens.lenses.reading import SCHEMA, Readings
from patchlens.models.model import Model
from patchlens.models.token_map import KINDS

__all__ = ["Lens"]

Columns = Mapping[str, pa.Array]


class Lens(ABC):
    """A way to read hidden states as words. Leaves say how; `read` is the same for all.

    Layer 0 is what enters the first block, at visual tokens the projector's output, for every lens.
    """

    name: ClassVar[str]
    """The lens's name in readings, on the command line and in the registry."""

    def read(self, states: HiddenStates, *, k: int = 5, layers: int | Iterable[int] | None = None) -> Readings:
        """Read every position of the states at the wanted layers.

        Args:
            states: Hidden states of one sequence; all layers are read in one go.
            k: Candidates per position and layer, best first.
            layers: A choice among `states.layers`; None for all of them.

        Raises:
            OptionError: A k below 1 or above what there is to choose from, or a layer that was not captured.
            NonFiniteStates: NaN or infinity among the states.
            StatesError: States of another model or of a site that it cannot read; BankMismatch for a bank of another
                model.
        """
        return self.read_batch([states], k=k, layers=layers)[0]

    def read_batch(
        self, batch: Sequence[HiddenStates], *, k: int = 5, layers: int | Iterable[int] | None = None
    ) -> list[Readings]:
        """Read the states of several sequences in one pass over what is searched: a bank is read once for all.

        Args:
            batch: Hidden states, each of one sequence.
            k: As for `read`.
            layers: As for `read`.

        Returns:
            Readings of each sequence, in order, the same as `read` gives.

        Raises:
            PatchlensError: As for `read`.
        """
        if k < 1:
            raise OptionError(f"{self.name} was asked for {k} candidates per position. Ask for at least 1.")
        asked = layers if layers is None or isinstance(layers, int) else tuple(layers)  # an iterator would be used up
        wanted = [_wanted(states, asked) for states in batch]
        vectors = [self._vectors(states, those) for states, those in zip(batch, wanted, strict=True)]
        if not vectors:
            return []
        columns = self._candidates(torch.cat(vectors), k)
        made, start = [], 0
        for states, those, part in zip(batch, wanted, vectors, strict=True):
            mine = {name: column.slice(start, len(part) * k) for name, column in columns.items()}
            start += len(part) * k
            made.append(_assemble(self.name, states, those, k, mine, self._made_with()))
        return made

    def _vectors(self, states: HiddenStates, layers: tuple[int, ...]) -> Float[Tensor, "query d_model"]:
        """What is to be read, layer by layer, once it has been checked."""
        if states.site not in ("language", "projector output"):
            raise StatesError(
                f"The {self.name} lens reads the language model's states; these were taken at the {states.site}. "
                "Capture at the site 'language' or 'projector output'."
            )
        self._check(states)
        vectors = states.vectors[[states.layers.index(layer) for layer in layers]]
        _refuse_non_finite(vectors, layers)
        return vectors.flatten(0, 1)

    @abstractmethod
    def _check(self, states: HiddenStates) -> None:
        """Raise if these states are not for this lens."""

    @abstractmethod
    def _candidates(self, vectors: Float[Tensor, "query d_model"], k: int) -> Columns:
        """The columns of `SCHEMA` that only this lens knows, each query × k long, best first per query."""

    @abstractmethod
    def _made_with(self) -> dict[str, Any]:
        """What goes into the provenance beside the states'."""


def refuse_other_model(lens: str, model: Model, states: HiddenStates, allow_other_model: bool) -> None:
    """Raise if the states have another width than the model, or come from another language model."""
    width = states.vectors.shape[-1]
    if width != model.d_model:
        raise StatesError(
            f"The {lens} lens of {model.name} reads states of width {model.d_model}; these have width {width} and "
            f"come from {states.provenance.model}. Make the lens with that model."
        )
    # States from elsewhere may come without a fingerprint; then the width alone is compared.
    if states.provenance.fingerprint not in ("", model.fingerprint) and not allow_other_model:
        raise StatesError(
            f"The {lens} lens was made with {model.name}; these states come from {states.provenance.model}, whose "
            "language model has other weights or was loaded in float16. Make the lens with that model, or pass "
            "allow_other_model=True if reading across models is the point."
        )


def _wanted(states: HiddenStates, layers: int | Iterable[int] | None) -> tuple[int, ...]:
    if layers is None:
        return states.layers
    asked = [layers] if isinstance(layers, int) else list(layers)
    if missing := [layer for layer in asked if layer not in states.layers]:
        raise OptionError(
            f"Layer {missing[0]} is not among these hidden states, which hold the layers "
            f"{', '.join(map(str, states.layers))}. Choose among them, or capture it first."
        )
    if not asked:
        raise OptionError("No layer to read was given. Name at least one, or leave the layers out for all.")
    return tuple(sorted(set(asked)))


def _refuse_non_finite(vectors: Float[Tensor, "layer token d_model"], layers: tuple[int, ...]) -> None:
    for layer, states in zip(layers, vectors, strict=True):
        if not torch.isfinite(states).all():
            raise NonFiniteStates(
                f"The hidden states of layer {layer} hold NaN or infinity, so nothing can be read from them. "
                "Capture them again with dtype bfloat16 or float32."
            )


def _assemble(
    lens: str, states: HiddenStates, layers: tuple[int, ...], k: int, columns: Columns, made_with: dict[str, Any]
) -> Readings:
    """Put the candidates of [layer, token, k] beside where they were found, column by column."""
    names = [source.name for source in states.sources] or ["text"]
    tokens, rows_each = len(states.positions), len(states.positions) * k
    total = len(layers) * rows_each
    per_token = {"position": pa.array(states.positions.numpy().astype(np.int32)), **_places(states, names)}
    spread = pa.array(np.tile(np.repeat(np.arange(tokens), k), len(layers)))
    known: dict[str, Any] = {
        "lens": _constant(lens, total),
        "layer": pa.array(np.repeat(np.array(layers, dtype=np.int32), rows_each)),
        "rank": pa.array(np.tile(np.arange(1, k + 1, dtype=np.int32), len(layers) * tokens)),
        **{name: values.take(spread) for name, values in per_token.items()},
        **columns,
    }
    table = pa.table(
        [known[field.name] if field.name in known else pa.nulls(total, field.type) for field in SCHEMA],
        schema=SCHEMA,
    )
    record = {"images": names, "lens": lens, "k": k, "layers": list(layers), "prompt": states.prompt}
    pictures = [source if isinstance(source, ImageInput) else None for source in states.sources] or [None]
    return Readings(
        table,
        images=dict(zip(names, pictures, strict=True)),
        tiles=dict(zip(names, states.tokens.layout, strict=False)),
        provenance=[{**record, **made_with, "states": states.provenance.to_json()}],
    )


def _places(states: HiddenStates, names: list[str]) -> dict[str, pa.Array]:
    """What each token is, of which image, and where in it: null where it is nowhere."""
    tokens = states.tokens
    row, column = (place.numpy().astype(np.int32) for place in tokens.places())
    nowhere = tokens.tiles.numpy() < 0
    seconds = tokens.seconds.numpy().astype(np.float32)
    sources = _carried(tokens.sources.numpy())
    return {
        "image": pa.DictionaryArray.from_arrays(pa.array(sources.astype(np.int32)), pa.array(names)),
        "kind": pa.DictionaryArray.from_arrays(pa.array(tokens.kinds.numpy().astype(np.int32)), pa.array(KINDS)),
        "tile": pa.array(tokens.tiles.numpy().astype(np.int32), mask=nowhere),
        "row": pa.array(row, mask=nowhere),
        "column": pa.array(column, mask=nowhere),
        "start": pa.array(seconds[:, 0], from_pandas=True),
        "end": pa.array(seconds[:, 1], from_pandas=True),
    }


def _carried(sources: np.ndarray) -> np.ndarray:
    """Text stands with the last source before it; what stands before all of them, with the first that appears."""
    known = np.flatnonzero(sources >= 0)
    if not len(known):
        return np.zeros_like(sources)
    last = np.searchsorted(known, np.arange(len(sources)), side="right") - 1
    carried: np.ndarray = sources[known[np.maximum(last, 0)]]
    return carried


def _constant(text: str, length: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(length, dtype=np.int32)), pa.array([text]))
