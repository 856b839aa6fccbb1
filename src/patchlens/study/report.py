"""What a study found, as files: every table and figure by itself, and one HTML page that holds them all.

The page needs no script, no network and no other file. It counts nothing; findings come with their numbers.
"""

import base64
import re
from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

from patchlens.analysis.drawing import save_figure, svg_text
from patchlens.analysis.finding import Finding, Table
from patchlens.storage import replacing

__all__ = ["write_findings", "write_report"]

_ROWS = 500  # of a table on the page; more make it slow to open
_SCALE = 1.25  # figures are drawn for paper, with letters of 8 points
_POINT = 4 / 3  # pixels
_WIDE = 620  # pixels; wider ones have several panels, and on a phone are scrolled rather than shrunk
_SIZE = re.compile(r'<svg\b[^>]*? width="([\d.]+)pt" height="([\d.]+)pt"')


def write_findings(folder: Path, findings: Sequence[Finding]) -> dict[str, str]:
    """Write tables/<name>.csv and .md, and figures/<name>.png and .svg; each file appears whole or not at all.

    Files of findings that an earlier run had and this one has not are removed.

    Returns:
        The SVG of each finding that has a figure, by its name, for `write_report`.

    Raises:
        StorageError: The disk refused.
        MissingExtra: matplotlib is not installed.
    """
    figures = {}
    for finding in findings:
        table = finding.table
        _save(folder / "tables" / f"{finding.name}.csv", table.to_csv())
        _save(folder / "tables" / f"{finding.name}.md", f"# {finding.title}\n\n{finding.note}\n\n{table.to_markdown()}")
        if finding.draw is not None:
            _, svg = save_figure(finding.draw(), folder / "figures" / finding.name)
            text = svg.read_text(encoding="utf-8")
            figures[finding.name] = text[text.index("<svg") :]
    _remove_others(folder / "tables", {finding.name for finding in findings})
    _remove_others(folder / "figures", set(figures))
    return figures


def write_report(
    path: Path,
    *,
    title: str,
    findings: Sequence[Finding],
    config_toml: str,
    about: Mapping[str, str],
    summary: Sequence[str] = (),
    notes: Sequence[str] = (),
    figures: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write the page that holds everything; replaces a file of that name only when all of it is there.

    Args:
        path: The HTML file.
        title: Its headline.
        findings: A section each, in this order.
        config_toml: The study's configuration, exactly.
        about: What made it: versions, dates, durations, by name.
        summary: The study in a few sentences, below the headline.
        notes: What a reader must know before the first figure, a sentence or more each.
        figures: From `write_findings`; what is not among them is drawn.

    Raises:
        StorageError: The disk refused.
        MissingExtra: matplotlib is not installed.
    """
    style = _part("report.css")
    contents = [(finding.name, finding.title) for finding in findings] + [("made", "How this was made")]
    fill = {
        # Styles by hash: were an escape missing somewhere, nothing injected would be applied or run.
        "policy": f"default-src 'none'; img-src data:; style-src '{_integrity(style)}'; base-uri 'none'; "
        "form-action 'none'",
        "title": escape(title),
        "style": style,
        "summary": _block("div", "summary", "p", summary),
        "notes": _block("ul", "notes", "li", notes),
        "contents": "".join(f'<li><a href="#{quote(name)}">{escape(text)}</a></li>' for name, text in contents),
        "findings": "\n".join(_section(finding, figures.get(finding.name)) for finding in findings),
        "about": "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in about.items()),
        "config": escape(config_toml),
    }
    # One pass, so that nothing filled in is searched for further marks.
    _save(path, re.sub(r"\{\{(\w+)\}\}", lambda mark: fill[mark[1]], _part("report.html")))


def _section(finding: Finding, svg: str | None) -> str:
    """A finding with its figure, and the table that it was drawn from folded away; without figure, the table."""
    note, table = escape(finding.note), _table(finding)
    if finding.draw is None:
        content = f'<p class="note">{note}</p>\n{table}'
    else:
        content = (
            f'<figure><div class="card">{_image(svg or svg_text(finding.draw()), finding.title)}</div>'
            f"<figcaption>{note}</figcaption></figure>\n"
            f"<details><summary>The numbers</summary>{table}</details>"
        )
    return f'<section id="{escape(finding.name)}">\n<h2>{escape(finding.title)}</h2>\n{content}\n</section>'


def _remove_others(folder: Path, names: Collection[str]) -> None:
    for path in folder.glob("*.*"):
        if path.stem not in names:
            path.unlink()


def _table(finding: Finding) -> str:
    table = finding.table
    if not table.rows:
        return '<p class="more">There is nothing to count.</p>'
    shown = Table(table.columns, table.rows[:_ROWS])
    # It can be scrolled to the side, so it can be reached by keyboard.
    html = f'<div class="table" tabindex="0" role="region" aria-label="{escape(finding.title)}">{shown.to_html()}</div>'
    if len(table.rows) > _ROWS:
        html += (
            f'<p class="more">The first {_ROWS:,} of {len(table.rows):,} rows; all are in '
            f"<code>tables/{escape(finding.name)}.csv</code>.</p>"
        )
    return html


def _image(svg: str, title: str) -> str:
    """A figure as an image of its own: its styles stay its own, and nothing in it can run."""
    encoded = base64.b64encode(svg.encode()).decode()
    width, height = (round(float(size) * _POINT * _SCALE) for size in _SIZE.findall(svg[:1000])[0])
    wide = ' class="wide"' if width > _WIDE else ""
    return (
        f'<img{wide} src="data:image/svg+xml;base64,{encoded}" width="{width}" height="{height}" '
        f'alt="{escape(title)}: a figure of the numbers below">'
    )


def _block(outer: str, name: str, inner: str, texts: Sequence[str]) -> str:
    each = "".join(f"<{inner}>{escape(text)}</{inner}>" for text in texts)
    return f'<{outer} class="{name}">{each}</{outer}>' if texts else ""


def _save(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _part(name: str) -> str:
    return (files("patchlens.study") / "web" / name).read_text(encoding="utf-8")


def _integrity(text: str) -> str:
    return f"sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}"
