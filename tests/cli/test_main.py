import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import patchlens
from patchlens import cli
from patchlens.cli import models
from patchlens.errors import StorageError


def test_version(run) -> None:
    assert run("--version").out == f"patchlens {patchlens.__version__}\n"


@pytest.mark.parametrize("words", [(), ("--help",), ("bank",), ("bank", "build", "-h"), ("read", "-h"), ("demo", "-h")])
def test_help_fits_eighty_columns(run, words: tuple[str, ...]) -> None:
    ended = run(*words)
    assert (ended.status, ended.err) == (0, "")
    assert "Usage: patchlens" in ended.out
    assert max(map(len, ended.out.splitlines())) <= 80


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, patchlens.cli\n"
        "assert patchlens.cli.main(['--help']) == 0\n"
        "heavy = {'torch', 'transformers', 'pyarrow', 'numpy', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    once = time.perf_counter() - began
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    assert min(once, time.perf_counter() - began) < 2  # 0.4 s on an idle core; room for a busy machine


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("foo",), "No such command 'foo'"),
        (("read",), "Missing argument 'IMAGE'"),
        (("read", "a.png", "--model", "m"), "Missing option '--out'"),
        (("models", "--colour"), "No such option: --colour"),
        (("read", "a.png", "-m", "m", "-o", "o", "--k", "many"), "Invalid value for '--k'"),
    ],
)
def test_a_command_typed_wrongly(run, words: tuple[str, ...], says: str) -> None:
    ended = run(*words)
    assert (ended.status, ended.out) == (2, "")
    assert says in ended.err
    assert "--help'." in ended.err
    assert ended.err.count("\n") == 1


def test_errors_are_one_message_without_a_traceback(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(json: bool = False) -> None:
        raise StorageError("Writing /a/b failed:\nno space \x1b[31m left.")

    monkeypatch.setattr(models, "say_json", fail)
    ended = run("models", "--json")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == "Writing /a/b failed: no space \ufffd[31m left.\n"


def test_errors_are_wrapped_for_a_terminal(run, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/".join(["a-long-name"] * 12)

    def fail(value: object) -> None:
        raise StorageError(f"Writing {path} failed: no space left. Make space there, or choose another disk. " * 2)

    monkeypatch.setattr(models, "say_json", fail)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    lines = run("models", "--json").err.splitlines()
    assert path in [word for line in lines for word in line.split()]
    assert len(lines) > 3
    assert all(len(line) <= 80 or path in line for line in lines)


def test_what_is_our_own_mistake_keeps_its_traceback(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "say_json", lambda value: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("models", "--json")


def test_an_interrupted_command(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(value: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr(models, "say_json", interrupt)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    ended = run("models", "--json")
    assert ended.status == 130
    assert ended.err == "Interrupted. Nothing half-written was left behind.\n"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_impatience_does_not_disturb_the_cleaning_up(run, monkeypatch: pytest.MonkeyPatch) -> None:
    cleaned = []

    def interrupt(value: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            cleaned.append(True)

    monkeypatch.setattr(models, "say_json", interrupt)
    ended = run("models", "--json")
    assert (ended.status, cleaned) == (143, [True])


def test_an_interruption_that_was_lost_can_be_repeated(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose_one(value: object) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second was lost too")

    monkeypatch.setattr(cli, "_PATIENCE", 0.0)
    monkeypatch.setattr(models, "say_json", lose_one)
    assert run("models", "--json").status == 130


def test_a_reader_that_goes_away(start: Callable[..., "subprocess.Popen[str]"]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen(
        [sys.executable, "-m", "patchlens", "models", "--json"], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full here")
@pytest.mark.parametrize("words", [("--version",), ()])
def test_a_full_disk_behind_standard_output(words: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "patchlens", *words], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120
        )
    assert ended.returncode == 2
    assert ended.stderr.startswith("Writing to standard output failed: No space left on device.")
    assert ended.stderr.count("\n") == 1


def test_a_named_file_is_not_taken_for_standard_output(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(value: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "weights.bin")

    monkeypatch.setattr(models, "say_json", fail)
    with pytest.raises(OSError, match=r"weights\.bin"):
        run("models", "--json")


@pytest.fixture
def building(llava_folder: Callable[..., Path], tmp_path: Path) -> tuple[object, ...]:
    """A command that takes some seconds."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("".join(f"Line {n} says that the {n} red cats sleep.\n" for n in range(3_000)))
    return ("bank", "build", "-m", llava_folder(), "-c", corpus, "--per-token", 100_000, "-o")


def interrupted(process: "subprocess.Popen[str]", stage: str, number: int) -> tuple[int, str]:
    """Exit status and last words of a command that gets a signal in a stage."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(stage):
            break
    assert process.poll() is None
    time.sleep(0.3)
    process.send_signal(number)
    stdout, err = process.communicate(timeout=120)
    assert stdout == ""
    assert "Traceback" not in err
    return process.returncode, err.splitlines()[-1]


def test_interrupting_a_bank_build_before_anything_was_done(start, building, tmp_path: Path) -> None:
    process = start(*building, tmp_path / "new" / "bank")
    ended = interrupted(process, "Loading the model", signal.SIGTERM)
    assert ended == (143, "Interrupted. Nothing half-written was left behind.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.txt"]


def test_an_interrupted_bank_build_goes_on(start, building, tmp_path: Path) -> None:
    out = tmp_path / "new" / "bank"
    ended = interrupted(start(*building, out), "Running the model", signal.SIGINT)
    kept = tmp_path / "new" / ".bank.build"
    assert ended == (130, f"Interrupted. What was done is kept in {kept}; the same command goes on from there.")
    assert sorted(path.name for path in out.parent.iterdir()) == [kept.name]
    again = start(*building, out)
    _, err = again.communicate(timeout=240)
    assert again.returncode == 0, err
    assert "Comparing the corpus …" in err.splitlines()
    assert "Choosing contexts …" not in err.splitlines()
    assert start(*building, tmp_path / "undisturbed").wait(timeout=240) == 0
    assert sorted(path.name for path in out.parent.iterdir()) == ["bank"]
    for path in out.iterdir():
        assert path.read_bytes() == (tmp_path / "undisturbed" / path.name).read_bytes()


def test_python_dash_m(start) -> None:
    stdout, err = start("--version").communicate(timeout=120)
    assert (stdout, err) == (f"patchlens {patchlens.__version__}\n", "")


def test_the_environment_is_made_afresh(tmp_path: Path) -> None:
    """What another interpreter left in .venv is gone; without pip the script ends there."""
    root = Path(patchlens.__file__).parents[2]
    for name in ("scripts/environment", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / name, tmp_path / name)
    stale = tmp_path / ".venv" / "bin" / "pytest"
    stale.parent.mkdir(parents=True)
    stale.write_text("#!/moved/away/.venv/bin/python\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$2" = venv ] && set -- "$@" --without-pip\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    ended = subprocess.run(
        [tmp_path / "scripts" / "environment"],
        env=os.environ | {"PYTHON": str(python)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "No module named pip" in ended.stderr
    assert (tmp_path / ".venv" / "bin" / "python").exists()
    assert not stale.exists()
