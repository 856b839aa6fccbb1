"""The command line: one thin file per verb. Here they are put together, and every failure becomes one line.

    patchlens demo · read · search · evaluate · study · annotate · bank … · models · doctor

Exit status: 0, or 1 when `doctor` finds something wrong or the reader of a pipe goes away, 2 for bad input or a
full disk, 130 for Ctrl-C and 143 for a request to end. Heavy libraries load inside the verbs, so that help stays quick.
"""

import errno
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.main import get_command

from patchlens import __version__
from patchlens.cli import annotate, bank, demo, doctor, evaluate, models, read, search, study
from patchlens.cli.terminal import complain, say
from patchlens.errors import PatchlensError

__all__ = ["app", "main"]

_INTERRUPTED = 128 + signal.SIGINT
_REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EIO}  # of a disk or a terminal
_PATIENCE = 2.0  # seconds after Ctrl-C in which another one changes nothing

app = typer.Typer(
    name="patchlens",
    help="Read what a vision-language model holds in its visual tokens, in words.",
    epilog="Start with: patchlens demo",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("read")(read.read)
app.command("search")(search.search)
app.command("evaluate")(evaluate.evaluate)
app.command("study")(study.study)
app.command("annotate")(annotate.annotate)
app.add_typer(bank.app, name="bank")
app.command("models")(models.models)
app.command("doctor")(doctor.doctor)


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", help="Print the version and end.", is_eager=True, callback=lambda on: _version(on)
        ),
    ] = False,
) -> None:
    """Read what a vision-language model holds in its visual tokens, in words."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The words after `patchlens`; None for those that the process was started with.

    Returns:
        The exit status.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a letter is no reason to fail
    status = _INTERRUPTED
    with _orderly_end() as ended_by:
        status = _run(arguments)
    if status != _INTERRUPTED:
        return status
    left = [note for end in ended_by for note in _notes(end)] or ["Nothing half-written was left behind."]
    complain(f"Interrupted. {left[0]}")
    return 128 + (ended_by[0].args[0] if ended_by else signal.SIGINT)


def _notes(error: BaseException) -> list[str]:
    """What the library added on the way: where unfinished work is kept."""
    return getattr(error, "__notes__", [])


def _run(arguments: Sequence[str] | None) -> int:
    try:
        status = _command(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        return 1
    except OSError as error:
        if error.errno not in _REFUSALS or error.filename is not None:  # a stream is written to without a name
            raise
        _drop_output()
        complain(
            f"Writing to standard output failed: {error.strerror}. What arrived there is incomplete. Make space or "
            "send it elsewhere, and run the command again."
        )
        return 2
    return status


def _drop_output() -> None:
    """What is still buffered would fail once more when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _command(arguments: Sequence[str] | None) -> int:
    command: Any = get_command(app)
    try:
        result = command.main(args=arguments, prog_name="patchlens", standalone_mode=False)
    except PatchlensError as error:
        complain(" ".join([str(error), *_notes(error)]))
        return 2
    except typer.TyperException as error:
        return _misused(error)
    except KeyboardInterrupt:
        return _INTERRUPTED
    return result if isinstance(result, int) else 0


def _misused(error: typer.TyperException) -> int:
    """A command, option or value that the parser refused."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        say(error.format_message())
        return 0
    path = context.command_path if context is not None else "patchlens"
    complain(f"{error.format_message().rstrip('.')}. See '{path} --help'.")
    return 2


@contextmanager
def _orderly_end() -> Iterator[list[KeyboardInterrupt]]:
    """Let Ctrl-C and a request to end unwind the work; impatient ones do not disturb the cleaning up.

    Yields:
        What was raised, first to last, each with the number of its signal.
    """
    ended_by: list[KeyboardInterrupt] = []
    last = -_PATIENCE

    def end(number: int, frame: object) -> None:
        nonlocal last
        now = time.monotonic()
        # Not ignored for good: Python drops an exception that is raised inside a finalizer, and then nothing unwinds.
        if now - last >= _PATIENCE:
            last = now
            ended_by.append(KeyboardInterrupt(number))
            raise ended_by[-1]

    # Where they are ignored (nohup) or handled by who calls us, they stay as they are.
    ours = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: handler for number, handler in ours.items() if signal.getsignal(number) is handler}
    for number in before:
        signal.signal(number, end)
    try:
        yield ended_by
    except KeyboardInterrupt:  # between two of our own lines
        if not ended_by:
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _version(wanted: bool) -> bool:
    if wanted:
        say(f"patchlens {__version__}")
        raise typer.Exit
    return wanted
