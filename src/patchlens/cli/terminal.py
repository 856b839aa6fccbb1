"""What a person sees while and after a command runs: results on stdout, all else on stderr."""

import json
import sys
import textwrap
import time
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType

from patchlens.progress import Report
from patchlens.provenance import JSON

__all__ = ["complain", "draw", "duration", "progress", "say", "say_json"]

_TITLES = {
    "plan": "Choosing contexts",
    "compare": "Comparing the corpus",
    "probe": "Timing the model",
    "wait": "Waiting for another process",
    "run": "Running the model",
    "verify": "Checking the bank",
    "recompute": "Computing rows again",
    "statistics": "Measuring the rows",
    "merge": "Copying vectors",
    "import": "Copying vectors",
}
"""What the library's stages are called here; a verb's own stages are titles already."""

_UNITS = {"plan": "sentences", "compare": "sentences", "run": "tokens"}
"""What some stages count, for their pace."""

_EVERY = 10.0  # seconds between two lines of progress where there is no terminal
_WINDOW = 30.0  # seconds that a pace is taken from: workers report every few seconds


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

    Warnings inside the block become plain lines.

    Yields:
        A report to hand to whatever takes long. A stage with a total of 1 is a step without a measure, one with a
        total of 0 has a measure and no known end.
    """
    console = Console(stderr=True)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: complain(str(message))
        if not console.is_terminal:
            yield _Lines()
            return
        with _bars(console) as bars:
            yield _Bars(bars)


def _bars(console: Console) -> Any:
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[status]}", markup=False),
        console=console,
        transient=True,
    )


class _Bars:
    """Progress for a terminal."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._tasks: dict[str, Any] = {}
        self._paces: dict[str, _Pace] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        pace = self._paces.setdefault(stage, _Pace(stage))
        pace.note(done)
        if stage not in self._tasks:
            for earlier in self._tasks.values():  # one without a known end says only so that it has come to it
                self._bars.update(earlier, visible=False)
            self._tasks[stage] = self._bars.add_task(_TITLES.get(stage, stage), total=None, status="")
        if total > 1:
            self._bars.update(self._tasks[stage], total=total)
        status = "" if total == 1 else pace.status(done, total)
        self._bars.update(self._tasks[stage], completed=done, status=status, visible=not 0 < total <= done)


class _Lines:
    """Progress for a log: a line when a stage begins, and then one every few seconds."""

    def __init__(self) -> None:
        self._paces: dict[str, _Pace] = {}
        self._wrote = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now, title = time.monotonic(), _TITLES.get(stage, stage)
        begins = stage not in self._paces
        pace = self._paces.setdefault(stage, _Pace(stage))
        pace.note(done)
        if begins:
            self._wrote = now
            sys.stderr.write(f"{title} …\n")
        elif now - self._wrote >= _EVERY and 0 < done and (done < total or not total):
            self._wrote = now
            sys.stderr.write(f"{title}: {pace.status(done, total)}\n")


class _Pace:
    """How fast a stage goes on. What was done before it began, in an earlier attempt, does not count."""

    def __init__(self, stage: str) -> None:
        self._unit = _UNITS.get(stage)
        self._marks: deque[tuple[float, int]] = deque()

    def note(self, done: int) -> None:
        now = time.monotonic()
        self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[1][0] >= _WINDOW:
            self._marks.popleft()

    def status(self, done: int, total: int) -> str:
        """As much of share, pace and time left as is known."""
        (began, before), (now, _) = self._marks[0], self._marks[-1]
        pace = (done - before) / (now - began) if now > began else 0.0
        parts = [f"{done / total:.0%}"] if total else [f"{done:,} {self._unit or 'done'}"]
        if self._unit and pace:
            parts.append(f"{pace:,.0f} {self._unit}/s" if total else f"{pace:,.0f}/s")
        if total and pace:
            parts.append(f"about {duration((total - done) / pace)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """A time for people: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
