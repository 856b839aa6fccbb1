"""Hidden states for a plan's contexts: the backbone alone, up to the deepest wanted layer, wanted rows only.

Many runs go through the model as one sequence, each shared prefix once (see `bank.pack`); models that an explicit mask
cannot serve get one run a sequence, padded on the right whatever side the tokenizer pads on: a causal model's states
depend on no padding there. Knows nothing of files: rows go to whoever asked, as they come.
"""

import inspect
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchlens.axes import Float
from patchlens.bank.encoding import Encoded, encode
from patchlens.bank.pack import Batch, Packing, Packs, make_batches, pack
from patchlens.bank.plan import Plan
from patchlens.errors import ModelError, NonFiniteStates
from patchlens.models.hooks import observe
from patchlens.models.masking import explicit_masks, packed_inputs, why_not_packed
from patchlens.models.model import Model

__all__ = ["check_packing", "choose_packing", "extract", "probe", "unit"]

_WIDTHS = (64, 96, 128, 192, 256, 384, 512)
"""Positions of a pack, to choose among: short packs repeat more prefixes, long ones attend to more in vain."""

_FORWARD = {"cpu": 2048, "cuda": 16384}
"""Positions of a forward pass on a device with memory enough: from there on matrix products gain nothing."""

_MEMORY_SHARE = 16
"""A forward pass may take this part of the device's memory, beside the weights."""

_SAMPLED_RUNS = 20_000
"""Runs laid out to compare widths, and to probe."""

_CHECKED_RUNS = 24
"""Runs of the self-check."""

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}


def choose_packing(model: Model, plan: Plan) -> Packing:
    """Decide how a plan is put into forward passes, from the model, the plan and the memory of its device.

    Nothing is timed, so that the same build always gets the same packing, and with it the same bytes.
    """
    longest = int(np.diff(plan.starts).max())
    positions = _forward_positions(model)
    if why_not_packed(model, longest) is not None:
        return Packing(packed=False, positions=max(positions, longest), packs=1)
    widths = sorted({min(max(width, longest), positions) for width in _WIDTHS})
    return min(
        (Packing(packed=True, positions=width, packs=max(1, positions // width)) for width in widths),
        key=lambda packing: _cost(model, plan, packing),
    )


def extract(
    model: Model, plan: Plan, layers: Sequence[int], batches: Iterable[Batch], dtype: str
) -> Iterator[tuple[Batch, dict[int, Encoded]]]:
    """Run batches and give the unit direction of each of their contexts at each layer, in the stored type.

    Args:
        model: The model; its head and the blocks above the deepest layer are never run.
        plan: What the batches are cut from.
        layers: Layers to keep; 0 is what enters the first block.
        batches: What to run.
        dtype: The stored type.

    Yields:
        Each batch, and for each layer its rows in the bank's order, on the CPU.

    Raises:
        NonFiniteStates: NaN, infinity or a zero vector; names the layer and the sentence.
    """
    waiting: _Result | None = None
    for batch in batches:
        started = _start(model, plan, layers, batch, dtype)
        if waiting is not None:
            yield waiting.finish(plan)
        waiting = started
    if waiting is not None:
        yield waiting.finish(plan)


def check_packing(model: Model, plan: Plan, layers: Sequence[int], packing: Packing) -> None:
    """Make sure that packed runs give what each gives alone, on a few runs of the plan that share prefixes.

    Args:
        model: The model.
        plan: Where the runs are taken from.
        layers: Layers that will be kept.
        packing: As the build will use it.

    Raises:
        ModelError: They differ by more than rounding; says by how much, at which layer.
    """
    lengths = np.diff(plan.starts)
    chosen = np.flatnonzero(lengths <= np.partition(lengths, len(lengths) // 2)[len(lengths) // 2])[:_CHECKED_RUNS]
    if not packing.packed or len(chosen) < 2:
        return
    some = plan.only(np.isin(plan.run_of_row, chosen))
    runs = range(len(some.starts) - 1)
    small = Packing(packed=True, positions=int(np.diff(some.starts).max() * 3), packs=2)
    alone = Packing(packed=False, positions=1, packs=1)
    found, expected = (_all_rows(model, some, layers, make_batches(some, how, runs)) for how in (small, alone))
    tolerance = _TOLERANCE.get(model.dtype, max(_TOLERANCE.values()))
    for layer in layers:
        difference = (found[layer] - expected[layer]).norm(dim=-1).max()
        if not difference <= tolerance:
            raise ModelError(
                f"Building a bank: {model.name} gives other hidden states when sentences share a forward pass than for "
                f"each alone: directions at layer {layer} differ by {difference:.3g}, expected at most {tolerance:g}. "
                f"Attention in {type(model.decoder).__name__} does not follow explicit masks; report this model type."
            )


def _forward_positions(model: Model) -> int:
    """By memory, half of it at a time, so that machines of one kind agree."""
    config = model.decoder.config
    inner = getattr(config, "intermediate_size", None) or 4 * model.d_model
    # What is alive at the widest place of a block, its attention mask included: some six rows of the inner width.
    each = 6 * max(inner, 2 * model.d_model) * model.dtype.itemsize
    positions = _FORWARD["cpu" if model.device.type == "cpu" else "cuda"]
    while positions > 512 and positions * each > _memory(model.device) // _MEMORY_SHARE:
        positions //= 2
    return positions


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _cost(model: Model, plan: Plan, packing: Packing) -> int:
    """Products for a sample of the plan, padding and repeated prefixes included."""
    batches = make_batches(plan, packing, range(min(len(plan.starts) - 1, _SAMPLED_RUNS)))
    laid = sum(len(batch.cuts) - 1 for batch in batches) * packing.positions
    weights = sum(parameter.numel() for parameter in model.blocks[0].parameters())
    # Attention over a pack: two products of d_model each, at about half the speed of the weights' products.
    return laid * (weights + 2 * 2 * packing.positions * model.d_model)


def probe(model: Model, plan: Plan, layers: Sequence[int], packing: Packing, seconds: float = 2.0) -> float:
    """Measure how fast a plan runs.

    Args:
        model: The model.
        plan: What would be run.
        layers: Layers that would be kept.
        packing: How.
        seconds: For how long, about; the first forward pass, which warms up, comes on top.

    Returns:
        Prefixes per second.
    """
    runs = range(min(len(plan.starts) - 1, _SAMPLED_RUNS))
    batches = make_batches(plan, packing, runs)
    next(extract(model, plan, layers, batches[:1], "float16"))
    done, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds or not done:
        for batch, _ in extract(model, plan, layers, batches, "float16"):
            done += batch.positions
            if (spent := time.perf_counter() - began) >= seconds:
                break
    return done / spent


def unit(states: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """Scale rows to length 1, in float32; a zero row or a row with NaN or infinity becomes NaN.

    The largest entry is divided out first, so that no square overflows or vanishes.
    """
    scaled = states.float() / states.float().abs().amax(dim=-1, keepdim=True)
    lengths: Tensor = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    return scaled / lengths


@dataclass(frozen=True, eq=False)
class _Result:
    """A batch whose rows may still be on their way from the device."""

    batch: Batch
    rows: dict[int, Encoded]
    bad: dict[int, Tensor]  # for each layer, which rows have no direction
    arrived: list[Any]  # an event on each GPU, after its last copy

    def finish(self, plan: Plan) -> tuple[Batch, dict[int, Encoded]]:
        for event in self.arrived:
            event.synchronize()
        for layer, bad in self.bad.items():
            if bad.any():
                raise _without_direction(plan, layer, self.batch.rows[int(bad.nonzero()[0])])
        return self.batch, self.rows


def _start(model: Model, plan: Plan, layers: Sequence[int], batch: Batch, dtype: str) -> _Result:
    """Run a batch; on a GPU, rows are copied back while the next batch is prepared and run."""
    packs = pack(plan, batch)
    result = _Result(batch, {}, {}, [])
    devices: set[torch.device] = set()

    def keep(layer: int, state: Tensor) -> None:
        directions = unit(state[packs.pack_of_row.to(state.device), packs.place_of_row.to(state.device)])
        result.bad[layer] = _back(~torch.isfinite(directions).all(dim=-1))
        stored = encode(directions, dtype)
        scales = None if stored.scales is None else _back(stored.scales)
        result.rows[layer] = Encoded(_back(stored.vectors), scales)
        devices.add(state.device)

    masks = explicit_masks(model) if batch.packed else nullcontext()
    with torch.inference_mode(), masks, observe(model.blocks, layers, keep, then_stop=True):
        model.decoder(**(packed_inputs(model, *packs.inputs) if batch.packed else _inputs(model, packs)))
    for device in devices:
        if device.type == "cuda":
            result.arrived.append(torch.cuda.current_stream(device).record_event())
    return result


def _back(tensor: Tensor) -> Tensor:
    if tensor.device.type != "cuda":
        return tensor.cpu()
    here = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return here.copy_(tensor, non_blocking=True)


def _inputs(model: Model, packs: Packs) -> dict[str, Any]:
    """The decoder's arguments for one run a sequence."""
    device = model.device
    arguments = {
        "input_ids": packs.token_ids.to(device),
        "attention_mask": packs.real.to(device, torch.long),
        "use_cache": False,
    }
    if "position_ids" in inspect.signature(model.decoder.forward).parameters:
        arguments["position_ids"] = torch.arange(packs.real.shape[1], device=device).expand(packs.real.shape)
    return arguments


def _all_rows(
    model: Model, plan: Plan, layers: Sequence[int], batches: Sequence[Batch]
) -> dict[int, Float[Tensor, "row d_model"]]:
    parts = [rows for _, rows in extract(model, plan, layers, batches, "float32")]
    return {layer: torch.cat([part[layer].vectors for part in parts]) for layer in layers}


def _without_direction(plan: Plan, layer: int, row: int) -> NonFiniteStates:
    at = plan.contexts["sentence"][row].as_py()
    return NonFiniteStates(
        f"Building a bank: the hidden state at layer {layer}, position {plan.contexts['position'][row].as_py()} of "
        f"'{plan.sentences['text'][at].as_py()[:80]}' ({plan.sentences['source'][at].as_py()}) is NaN, infinite or "
        "zero, so it has no direction. Load the model in float32 or bfloat16, and check its weights."
    )
