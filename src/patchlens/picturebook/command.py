"""How the `python -m patchlens.picturebook.…` commands end: with a message and a status, not with a traceback."""

import sys
from collections.abc import Callable

from patchlens.errors import PatchlensError

__all__ = ["run"]


def run(main: Callable[[], None]) -> None:
    """Run a command; exit with 2 and the message for our own errors, with 130 for Ctrl-C."""
    try:
        main()
    except PatchlensError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted. The same command goes on from the last checkpoint, where it keeps one.\n")
        raise SystemExit(130) from None
