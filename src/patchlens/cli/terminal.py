"""What a person sees while and after a command runs: results on stdout, all else on stderr."""

import json
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType

from patchlens.progress import Report
from patchlens.provenance import JSON

__all__ = ["complain", "draw", "progress", "say", "say_json"]

_TITLES = {
    "plan": "Choosing contexts",
    "run": "Running the model",
    "verify": "Checking the bank",
}
"""What the library's stages are called here; a verb's own stages are titles already."""

_EVERY = 10.0  # seconds between two lines of progress where there is no terminal


def say(text: str) -> None:
    """Write plain text to stdout; it is not wrapped, so that paths stay whole."""
    sys.stdout.write(text + "\n")


def say_json(value: JSON) -> None:
    """Write one JSON value on one line."""
    say(json.dumps(value, ensure_ascii=False))


def draw(*parts: RenderableType) -> None:
    """Draw tables and styled text on stdout."""
    console = Console(highlight=False)
    for part in parts:
        console.print(part)


def complain(message: str) -> None:
    """Write a message to stderr: wrapped for a terminal, one line for a log."""
    from patchlens.lenses.summary import printable

    text = printable(" ".join(message.split()))
    if sys.stderr.isatty():
        width = min(Console(stderr=True).width, 100)
        text = textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)
    sys.stderr.write(text + "\n")


@contextmanager
def progress() -> Iterator[Report]:
    """Show on stderr where long work is: bars with an estimate in a terminal, a line now and then in a log.

    Yields:
        A report to hand to whatever takes long. A stage with a total of 1 is a step without a measure.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    with _bars(console) as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(_TITLES.get(stage, stage), total=None if total == 1 else total)
            bars.update(tasks[stage], completed=done)
            if done >= total:
                bars.update(tasks[stage], total=total, visible=False)

        yield report


def _bars(console: Console) -> Any:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
    )


class _Lines:
    """Progress for a log: a line when a stage begins, and then one every few seconds."""

    def __init__(self) -> None:
        self._began: dict[str, float] = {}
        self._wrote = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now, title = time.monotonic(), _TITLES.get(stage, stage)
        if stage not in self._began:
            self._began[stage] = self._wrote = now
            sys.stderr.write(f"{title} …\n")
        elif now - self._wrote >= _EVERY and 0 < done < total:
            left = (now - self._began[stage]) / done * (total - done)
            self._wrote = now
            sys.stderr.write(f"{title}: {done / total:.0%}, about {_duration(left)} left\n")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
