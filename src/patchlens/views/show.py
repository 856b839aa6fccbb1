"""Readings where the reader is: the page in a notebook, a table in a terminal."""

import sys
from html import escape
from pathlib import Path

from rich.console import Console

from patchlens.lenses.reading import Readings
from patchlens.views.page import page, write_page
from patchlens.views.terminal import table

__all__ = ["show"]

_NOTEBOOK_BYTES = 25_000_000


def show(readings: Readings, path: str | Path | None = None, *, title: str | None = None) -> Path | None:
    """Show readings: the interactive page in a notebook, a short table in a terminal.

    Args:
        readings: What to show.
        path: Write the page to this HTML file as well.
        title: Headline of the page; None for the image's name.

    Returns:
        The file written, None without `path`.

    Raises:
        StorageError: The disk refuses the file.
    """
    written = None if path is None else write_page(readings, path, title=title)
    if _in_notebook():
        _display(readings, title)
    else:
        Console().print(table(readings))
    return written


def _in_notebook() -> bool:
    # Only a notebook that runs has imported IPython already, so nothing is imported to find out.
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"


def _display(readings: Readings, title: str | None) -> None:
    from IPython.display import HTML, display  # type: ignore[import-not-found, unused-ignore]

    text = page(readings, title=title)
    if len(text) > _NOTEBOOK_BYTES:
        # A notebook stores what it shows; a hundred images belong into a file of their own.
        display(readings)
        return
    frame = (
        f'<iframe srcdoc="{escape(text)}" sandbox="allow-scripts allow-downloads" '
        'style="width:100%;height:860px;border:0" title="patchlens readings"></iframe>'
    )
    display(HTML(frame))
