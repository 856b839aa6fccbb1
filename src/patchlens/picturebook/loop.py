"""A training loop that can stop at any moment and go on to the same end.

The batch of a step depends on the seed and the step alone, so a checkpoint is the weights, the optimizers' state and
the step. Checkpoints are safetensors; nothing here knows what is trained.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from patchlens.errors import OptionError
from patchlens.provenance import JSON
from patchlens.storage import replacing, write_json

__all__ = ["Recipe", "best_device", "train"]

Log = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """How one part is trained."""

    name: str
    """Names the checkpoint and the log lines."""
    steps: int
    """Updates in all."""
    matrix_rate: float
    """Peak learning rate of the weight matrices named by `matrices` (Muon, matched to AdamW's update size)."""
    other_rate: float
    """Peak learning rate of everything else (AdamW)."""
    warmup: int = 50
    """Updates until the peak."""
    decay: float = 0.6
    """Share of the updates, at the end, over which the rate falls to zero."""
    matrices: str = "layers."
    """Matrices whose name has this in it are trained by Muon."""

    def scale(self, step: int) -> float:
        """The learning rate at a step as a share of the peak: up, flat, then linearly down."""
        up = (step + 1) / self.warmup
        down = (self.steps - step) / (self.decay * self.steps)
        return min(1.0, up, down)


def best_device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(
    recipe: Recipe,
    module: nn.Module,
    loss: Callable[[int], tuple[Tensor, dict[str, float]]],
    folder: Path,
    log: Log,
    *,
    seed: int = 0,
    every: int = 25,
    checkpoint_seconds: float = 120.0,
) -> None:
    """Train a module's parameters in place, going on from a checkpoint in the folder if there is one.

    Args:
        recipe: Steps and rates.
        module: What is trained; parameters that need no gradient are left alone and not saved.
        loss: Gives the loss of a step's batch, and figures to log.
        folder: Holds `<name>.safetensors` (weights and optimizers' state) and `<name>.json` (the step, seconds).
        log: Gets a line every `every` steps.
        seed: What the batches depend on; a checkpoint of another seed or recipe is refused.
        every: Steps between two lines.
        checkpoint_seconds: Time between two checkpoints.

    Raises:
        OptionError: The folder holds a checkpoint of another seed or recipe.
    """
    learned = {name: p for name, p in module.named_parameters() if p.requires_grad}
    optimizers = _optimizers(recipe, learned)
    step, spent = _resume(recipe, seed, learned, optimizers, folder)
    if step:
        log(f"{recipe.name}: goes on at step {step} of {recipe.steps}")
    started = saved = time.monotonic()
    first, count = step, 0
    sums: dict[str, float] = {}
    module.train()
    while step < recipe.steps:
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * recipe.scale(step)
        value, figures = loss(step)
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(learned.values(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step, count = step + 1, count + 1
        for key, figure in {"loss": value.item(), **figures}.items():
            sums[key] = sums.get(key, 0.0) + figure
        now = time.monotonic()
        if step % every == 0 or step == recipe.steps:
            means = "  ".join(f"{key} {total / count:.3f}" for key, total in sums.items())
            left = (now - started) / (step - first) * (recipe.steps - step)
            log(f"{recipe.name}: step {step}/{recipe.steps}  {means}  {left / 60:.1f} min left")
            sums, count = {}, 0
        if now - saved > checkpoint_seconds or step == recipe.steps:
            _save(recipe, seed, learned, optimizers, folder, step, spent + now - started)
            saved = now
    module.eval()


def _optimizers(recipe: Recipe, learned: dict[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
    """Muon for the matrices that the recipe names, AdamW for embeddings, heads, norms and biases."""
    inside = {n: p for n, p in learned.items() if p.ndim == 2 and recipe.matrices in n}
    outside = [p for n, p in learned.items() if n not in inside]
    optimizers: list[torch.optim.Optimizer] = []
    if inside:
        optimizers.append(
            torch.optim.Muon(inside.values(), lr=recipe.matrix_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        )
    optimizers.append(torch.optim.AdamW(outside, lr=recipe.other_rate, betas=(0.9, 0.98), weight_decay=0.0))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def _save(
    recipe: Recipe,
    seed: int,
    learned: dict[str, nn.Parameter],
    optimizers: list[torch.optim.Optimizer],
    folder: Path,
    step: int,
    seconds: float,
) -> None:
    tensors = {f"weight/{name}": p.detach().cpu().contiguous() for name, p in learned.items()}
    for number, optimizer in enumerate(optimizers):
        for parameter, state in optimizer.state_dict()["state"].items():
            for entry, value in state.items():
                tensors[f"optimizer/{number}/{parameter}/{entry}"] = torch.as_tensor(value).cpu().contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    progress: dict[str, JSON] = {"step": step, "seconds": round(seconds, 1), "seed": seed, **asdict(recipe)}
    with replacing(folder / f"{recipe.name}.safetensors") as path:
        path.write_bytes(save(tensors, metadata={"progress": json.dumps(progress)}))
    write_json(folder / f"{recipe.name}.json", progress)


def _resume(
    recipe: Recipe,
    seed: int,
    learned: dict[str, nn.Parameter],
    optimizers: list[torch.optim.Optimizer],
    folder: Path,
) -> tuple[int, float]:
    """Load the checkpoint, if any; returns the step to go on with and the seconds spent before."""
    path = folder / f"{recipe.name}.safetensors"
    if not path.exists():
        return 0, 0.0
    with safe_open(path, "pt") as file:
        progress = json.loads(file.metadata()["progress"])
    if different := [key for key, value in {"seed": seed, **asdict(recipe)}.items() if progress[key] != value]:
        raise OptionError(
            f"{path} was trained with {different[0]} {progress[different[0]]}, this run asks for "
            f"{({'seed': seed} | asdict(recipe))[different[0]]}. Train in another work folder, or remove that file."
        )
    tensors = load_file(path)
    with torch.no_grad():
        for name, parameter in learned.items():
            parameter.copy_(tensors[f"weight/{name}"])
    for number, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Any]] = {}
        for key, tensor in tensors.items():
            kind, _, rest = key.partition("/")
            if kind == "optimizer" and rest.startswith(f"{number}/"):
                _, index, entry = rest.split("/")
                state.setdefault(int(index), {})[entry] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(progress["step"]), float(progress["seconds"])
