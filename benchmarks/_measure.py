"""One thing at a time, in a process of its own: how long, how much memory, how fast this machine multiplies."""

import multiprocessing
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


def alone(function: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
    """Run a function in a fresh process and give back what it returns."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


def peak_memory() -> int:
    """Most bytes that this process has held at once, mapped files included.

    Read from /proc, because the maximum that getrusage gives is inherited from the process that started this one.
    """
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def resident_memory() -> int:
    """Bytes that this process holds now, mapped files included."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


def machine() -> dict[str, Any]:
    """What the figures depend on, besides the code."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return {
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def gemm_rates(d_model: int, d_mlp: int, rows: int = 2048, seconds: float = 1.5) -> dict[str, dict[str, float]]:
    """Floating point operations a second of the best repetition, by precision and size.

    Args:
        d_model: Width of the model; with `d_mlp` the sizes of the matrices in its blocks.
        d_mlp: Width of its MLPs.
        rows: Rows of the other matrix.
        seconds: Time for each size.
    """
    sizes = ((rows, d_model, d_model), (rows, d_model, d_mlp), (rows, d_mlp, d_model), (rows, rows, rows))
    return {
        str(dtype).removeprefix("torch."): {f"{m} x {k} x {n}": _rate(m, k, n, dtype, seconds) for m, k, n in sizes}
        for dtype in (torch.float32, torch.bfloat16)
    }


@torch.inference_mode()
def _rate(m: int, k: int, n: int, dtype: torch.dtype, seconds: float) -> float:
    rows, weights = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
    out, best = torch.empty(m, n, dtype=dtype), float("inf")
    until = time.perf_counter() + seconds
    while (started := time.perf_counter()) < until:
        torch.mm(rows, weights.T, out=out)
        best = min(best, time.perf_counter() - started)
    return 2 * m * k * n / best


class Stages:
    """A report that remembers when each stage began and last spoke."""

    def __init__(self) -> None:
        self._times: dict[str, tuple[float, float]] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take the time."""
        now = time.perf_counter()
        self._times[stage] = self._times.get(stage, (now, now))[0], now

    def seconds(self) -> dict[str, float]:
        """How long each stage took."""
        return {stage: last - first for stage, (first, last) in self._times.items()}


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """Rows under the names of their columns, numbers to the right; what a row lacks stays empty."""
    cells = [[column.replace("_", " ") for column in columns]]
    cells += [[_cell(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numbers = [any(isinstance(row.get(column), int | float) for row in rows) for column in columns]
    aligned = [str.rjust if number else str.ljust for number in numbers]
    return "\n".join(
        "  ".join(align(cell, width) for align, cell, width in zip(aligned, line, widths, strict=True)).rstrip()
        for line in cells
    )


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)
