"""`patchlens doctor`: what this machine can do, and what is wrong with it if something is."""

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import typer

from patchlens import __version__
from patchlens.cli.options import Json
from patchlens.cli.terminal import draw, progress, say, say_json

__all__ = ["Check", "doctor"]

_NEEDED = (
    "torch",
    "transformers",
    "huggingface_hub",
    "safetensors",
    "pyarrow",
    "numpy",
    "pillow",
    "typer",
    "rich",
)
_OPTIONAL = {
    "torchvision": "videos, Llama 4 and Cohere2 Vision",
    "accelerate": "models over several devices",
    "peft": "LoRA adapters",
    "faiss-cpu": "approximate search",
    "ray": "bank builds on a cluster",
    "datasets": "corpora of the Hub",
}
"""What works without them too, and what each is for."""

_CACHE_BYTES = 1 << 30  # below this the next bank may not fit


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str
    advice: str | None = None
    """What to do; None where nothing is wrong."""


def doctor(json: Json = False) -> None:
    """Look at this machine: versions, CPU, GPU, memory, cache folder, embedded models.

    Ends with status 1 if something is wrong.
    """
    with progress() as report:
        checks = []
        for check in _checks():
            checks.append(check)
            report("Looking at this machine", 0, 1)
        report("Looking at this machine", 1, 1)
    well = all(check.ok for check in checks)
    if json:
        say_json({"ok": well, "checks": [asdict(check) for check in checks]})
    else:
        _tell(checks, well)
    if not well:
        raise typer.Exit(1)


def _checks() -> Iterator[Check]:
    yield Check("python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Check("patchlens", True, __version__)
    yield from (_release(name) for name in _NEEDED)
    yield from (_extra(name, purpose) for name, purpose in _OPTIONAL.items())
    yield Check("cpu", True, f"{_cores()} cores to use")
    yield _gpu()
    yield _memory()
    yield _cache()
    yield from _embedded()


def _release(name: str) -> Check:
    try:
        return Check(name, True, version(name))
    except PackageNotFoundError:
        return Check(name, False, "not installed", f"pip install {name}")


def _extra(name: str, purpose: str) -> Check:
    try:
        return Check(name, True, version(name))
    except PackageNotFoundError:
        return Check(name, True, f"not installed; for {purpose}")


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpu() -> Check:
    try:
        import torch
    except Exception as error:
        return Check("gpu", False, f"torch does not load: {_first_line(error)}", "Install torch again.")
    if torch.cuda.is_available():
        found = []
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            found.append(f"cuda:{number} {torch.cuda.get_device_name(number)}, {_size(free)} of {_size(total)} free")
        return Check("gpu", True, "; ".join(found))
    if torch.backends.mps.is_available():
        return Check("gpu", True, "mps")
    return Check("gpu", True, "none; models run on the CPU")


def _memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = total
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    with suppress(OSError, ValueError):  # a container may have less than its machine; without a limit it says "max"
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        total = min(total, limit)
        free = min(free, limit - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    return Check("memory", True, f"{_size(free)} of {_size(total)} free")


def _cache() -> Check:
    from patchlens.errors import OptionError
    from patchlens.storage import cache_folder

    try:
        folder = cache_folder()
    except OptionError as error:
        return Check("cache", False, "unknown", str(error))
    try:
        place = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        with tempfile.TemporaryFile(dir=place):
            free = shutil.disk_usage(place).free
    except OSError as error:
        return Check(
            "cache",
            False,
            f"{folder} cannot be written: {error.strerror}",
            "Set PATCHLENS_HOME to a folder that you may write to.",
        )
    found = f"{folder}, {_size(free)} free"
    if free < _CACHE_BYTES:
        return Check("cache", False, found, "Make space, or set PATCHLENS_HOME to a folder on another disk.")
    return Check("cache", True, found)


def _embedded() -> Iterator[Check]:
    from patchlens.models.embedded import embedded_names

    for name in embedded_names():
        began = time.monotonic()
        try:
            from patchlens.models.loading import load_model

            model = load_model(name)
        except Exception as error:  # whatever is wrong with it, the other checks go on
            yield Check(name, False, f"does not load: {_first_line(error)}", "Install patchlens again.")
        else:
            yield Check(
                name,
                True,
                f"loads in {time.monotonic() - began:.1f} s: {model.adapter.family}, {model.n_layers} blocks, "
                f"d_model {model.d_model}",
            )


def _tell(checks: list[Check], well: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from patchlens.lenses.summary import printable

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        mark = Text("ok", style="green") if check.ok else Text("WRONG", style="bold red")
        text = Text(printable(check.found))
        if check.advice is not None:
            text.append(f"\n{printable(check.advice)}", style="bold")
        table.add_row(mark, check.name, text)
    draw(table)
    say("\nAll is well." if well else "\nSomething is wrong; see the lines marked WRONG.")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"
