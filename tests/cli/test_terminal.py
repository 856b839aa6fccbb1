import io
import time
import warnings

import pytest

from patchlens.cli import terminal


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with terminal.progress() as report:
        for done in range(0, 101, 5):
            report("run", done, 100)
            clock[0] += 1
        report("Reading", 0, 1)
        report("Reading", 1, 1)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "Running the model …",
        "Running the model: 50%, 5 tokens/s, about 10 s left",
        "Reading …",
    ]


def test_the_time_left_follows_the_recent_pace(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    """What an earlier attempt did is done, but no pace; neither is what was an hour ago."""
    with terminal.progress() as report:
        report("run", 50_000, 100_000)
        for done in (50_500, 51_000):
            clock[0] += 10
            report("run", done, 100_000)
        for done in range(51_000, 60_000, 1_000):
            clock[0] += 10
            report("run", done, 100_000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "Running the model: 50%, 50 tokens/s, about 16 min left"
    assert lines[-1] == "Running the model: 59%, 100 tokens/s, about 7 min left"


def test_a_total_that_is_not_known(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with terminal.progress() as report:
        for done in range(0, 5_000, 1_000):
            report("plan", done, 0)
            clock[0] += 5
    assert capsys.readouterr().err.splitlines() == [
        "Choosing contexts …",
        "Choosing contexts: 2,000 sentences, 200/s",
        "Choosing contexts: 4,000 sentences, 200/s",
    ]


def test_warnings_are_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with terminal.progress():
            warnings.warn("Worker 2 has ended.", RuntimeWarning, stacklevel=1)
    assert capsys.readouterr().err == "Worker 2 has ended.\n"


def test_a_terminal_gets_bars_that_go_away(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    screen = Terminal()
    monkeypatch.setattr(terminal.sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with terminal.progress() as report:
        report("Loading [the] model", 0, 1)
        report("Loading [the] model", 1, 1)
        for done in (0, 30, 60):
            report("plan", done, 0)
        time.sleep(0.3)  # drawn ten times a second
        for done in (0, 3_000, 6_000):
            clock[0] += 10
            report("run", done, 6_000)
    drawn = screen.getvalue()
    assert "Choosing contexts" in drawn
    assert "60 sentences" in drawn
    assert "\x1b[2K" in drawn  # erased again


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4 s"), (89.0, "89 s"), (150.0, "2 min"), (7200.0, "2.0 h")])
def test_durations(seconds: float, text: str) -> None:
    assert terminal.duration(seconds) == text
