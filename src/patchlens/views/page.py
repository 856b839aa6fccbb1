"""Readings as one HTML file that needs no network, no server and no other file.

The page's own parts are in `web/`; here they are put together, with everything that came from a corpus, a
model or a file name escaped.
"""

import base64
import json
import re
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import Path

from patchlens.lenses.reading import Readings
from patchlens.storage import replacing
from patchlens.views.document import document

__all__ = ["page", "write_page"]

# Inside <script> only "</script" and "<!--" end or alter the block, but a page is also pasted and served by
# others: no character of the data can open a tag or an entity. The last two end a line in older JavaScript.
_ESCAPES = str.maketrans({character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"})


def write_page(readings: Readings, path: str | Path, *, title: str | None = None) -> Path:
    """Write the interactive page; replaces a file of that name only when all of it is there.

    Args:
        readings: What to show: any images, lenses and layers.
        path: The HTML file; its folder must exist.
        title: Headline of the page; None for the image's name.

    Raises:
        StorageError: The disk refuses.
    """
    path = Path(path)
    text = page(readings, title=title)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def page(readings: Readings, *, title: str | None = None) -> str:
    """The interactive page as text."""
    content = document(readings, title=title)
    style, script = _part("page.css"), _part("page.js")
    # Scripts and styles by hash: were an escape missing somewhere, injected code would still not run.
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_integrity(style)}'; script-src '{_integrity(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    fill = {
        "policy": policy,
        "title": escape(f"{content['title']} · patchlens"),
        "style": style,
        "script": script,
        "data": _embedded(json.dumps(content, ensure_ascii=False, separators=(",", ":"))),
    }
    # One pass, so that nothing filled in is searched for further marks.
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: fill[mark[1]], _part("index.html"))


def _embedded(text: str) -> str:
    return text.translate(_ESCAPES)


def _part(name: str) -> str:
    return (files("patchlens.views") / "web" / name).read_text(encoding="utf-8")


def _integrity(text: str) -> str:
    return f"sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}"
