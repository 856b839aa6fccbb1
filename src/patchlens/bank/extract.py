"""Hidden states for a plan's contexts: the backbone alone, up to the deepest wanted layer, wanted rows only.

Plain batched forward. Sequences are padded on the right here, whatever side the tokenizer pads on; a causal
model's states then depend on no padding. Knows nothing of files: rows go to whoever asked, as they come.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchlens.axes import Float, Int
from patchlens.bank.plan import Ints, Plan
from patchlens.errors import NonFiniteStates
from patchlens.models.hooks import observe
from patchlens.models.model import Model
from patchlens.progress import Report, silent

__all__ = ["Write", "extract", "unit"]

Write = Callable[[int, Tensor, Tensor], None]
"""Called as `write(layer, rows, vectors)`: float32 unit vectors [row, d_model] for some of the bank's rows."""

BATCH_POSITIONS = 4096
"""Token positions of one forward pass, padding included; a longer sequence goes alone."""


def extract(model: Model, plan: Plan, layers: Sequence[int], write: Write, report: Report = silent) -> None:
    """Run a plan's sequences and hand over the unit direction of each context at each layer.

    Args:
        model: The model; its head and the blocks above the deepest layer are never run.
        plan: What to run, and which positions of it are wanted.
        layers: Layers to keep; 0 is what enters the first block.
        write: Receives the rows, batch by batch.
        report: Called with stage "run" and token positions done.

    Raises:
        NonFiniteStates: NaN, infinity or a zero vector; names the layer and the sentence.
    """
    total, done = len(plan.token_ids), 0
    position = plan.contexts["position"].to_numpy().astype(np.int64)
    of_run = _Rows(plan.run_of_row, len(plan.starts) - 1)
    report("run", 0, total)
    for batch in _batches(np.diff(plan.starts)):
        places, rows = of_run.of(batch)
        wanted = torch.from_numpy(rows)
        for layer, states in _states(model, plan, batch, places, position[rows], layers).items():
            write(layer, wanted, _checked(states, layer, plan, rows))
        done += int(np.diff(plan.starts)[batch].sum())
        report("run", done, total)


def unit(states: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """Scale rows to length 1, in float32; a zero row or a row with NaN or infinity becomes NaN.

    The largest entry is divided out first, so that no square overflows or vanishes.
    """
    scaled = states.float() / states.float().abs().amax(dim=-1, keepdim=True)
    lengths: Tensor = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    return scaled / lengths


class _Rows:
    """The rows of each run, found without a pass over all of them."""

    def __init__(self, run_of_row: Ints, runs: int) -> None:
        self._by_run = np.argsort(run_of_row, kind="stable")
        self._starts = np.searchsorted(run_of_row[self._by_run], np.arange(runs + 1, dtype=np.int64))

    def of(self, batch: Ints) -> tuple[Ints, Ints]:
        """For each wanted row of the batch's runs: which of the batch it is in, and the row."""
        rows = [self._by_run[self._starts[run] : self._starts[run + 1]] for run in batch]
        return np.repeat(np.arange(len(batch), dtype=np.int64), [len(part) for part in rows]), np.concatenate(rows)


def _batches(lengths: Ints) -> Iterator[Ints]:
    """Runs of like length together, so that little is padded; the same batches each time."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * lengths[order[stop]] <= BATCH_POSITIONS:
            stop += 1
        yield order[start:stop]
        start = stop


def _states(
    model: Model, plan: Plan, batch: Ints, places: Ints, positions: Ints, layers: Sequence[int]
) -> dict[int, Float[Tensor, "row d_model"]]:
    ids, mask = _padded([plan.token_ids[plan.starts[run] : plan.starts[run + 1]] for run in batch])
    kept: dict[int, Tensor] = {}

    def keep(layer: int, state: Tensor) -> None:
        at = torch.from_numpy(places).to(state.device), torch.from_numpy(positions).to(state.device)
        kept[layer] = state[at]

    with torch.inference_mode(), observe(model.blocks, layers, keep, then_stop=True):
        model.decoder(**_arguments(model, ids, mask))
    return kept


def _padded(runs: Sequence[Ints]) -> tuple[Int[Tensor, "sequence position"], Int[Tensor, "sequence position"]]:
    ids = torch.zeros(len(runs), max(map(len, runs)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, run in enumerate(runs):
        ids[index, : len(run)] = torch.from_numpy(run)
        mask[index, : len(run)] = 1
    return ids, mask


def _arguments(
    model: Model, ids: Int[Tensor, "sequence position"], mask: Int[Tensor, "sequence position"]
) -> dict[str, Any]:
    device = model.device
    arguments = {"input_ids": ids.to(device), "attention_mask": mask.to(device), "use_cache": False}
    if "position_ids" in inspect.signature(model.decoder.forward).parameters:
        arguments["position_ids"] = torch.arange(ids.shape[1], device=device).expand(ids.shape)
    return arguments


def _checked(states: Float[Tensor, "row d_model"], layer: int, plan: Plan, rows: Ints) -> Float[Tensor, "row d_model"]:
    directions = unit(states).cpu()
    bad = ~torch.isfinite(directions).all(dim=-1)
    if bad.any():
        row = int(rows[int(bad.nonzero()[0])])
        at = plan.contexts["sentence"][row].as_py()
        raise NonFiniteStates(
            f"Building a bank: the hidden state at layer {layer}, position {plan.contexts['position'][row].as_py()} of "
            f"'{plan.sentences['text'][at].as_py()[:80]}' ({plan.sentences['source'][at].as_py()}) is NaN, infinite or "
            "zero, so it has no direction. Load the model in float32 or bfloat16, and check its weights."
        )
    return directions
