import io

import pytest

from patchlens.cli import terminal


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: clock[0])
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
        "Running the model: 50%, about 10 s left",
        "Reading …",
    ]


def test_a_terminal_gets_bars_that_go_away(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(terminal.sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with terminal.progress() as report:
        report("Loading [the] model", 0, 1)
        report("Loading [the] model", 1, 1)
        for done in (0, 30, 60):
            report("plan", done, 60)
    drawn = screen.getvalue()
    assert "Choosing contexts" in drawn
    assert "\x1b[2K" in drawn  # erased again


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4 s"), (89.0, "89 s"), (150.0, "2 min"), (7200.0, "2.0 h")])
def test_durations(seconds: float, text: str) -> None:
    assert terminal._duration(seconds) == text
