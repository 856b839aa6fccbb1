"""What an analysis gives: a table of numbers, and a figure drawn from that table alone."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Cell", "Finding", "Table"]

Cell: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True)
class Table:
    """Named columns of plain values; None is unknown, and stays empty."""

    columns: tuple[str, ...]
    """Names, with the unit in them where there is one."""
    rows: tuple[tuple[Cell, ...], ...]
    """Each as long as `columns`."""

    @classmethod
    def of(cls, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> "Table":
        """A table of any sequences."""
        return cls(tuple(columns), tuple(tuple(row) for row in rows))

    def column(self, name: str) -> tuple[Cell, ...]:
        """All values of a column; ValueError if there is none of that name."""
        place = self.columns.index(name)
        return tuple(row[place] for row in self.rows)

    def to_csv(self) -> str:
        """Comma-separated, numbers in full precision."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return out.getvalue()

    def to_markdown(self) -> str:
        """A table for people, numbers rounded."""
        lines = [self.columns, ["---"] * len(self.columns), *([_short(cell) for cell in row] for row in self.rows)]
        return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)

    def to_html(self) -> str:
        """The same as HTML, everything escaped."""
        numeric = [all(_is_number(row[place]) for row in self.rows) for place in range(len(self.columns))]
        kinds = [' class="number"' if each else "" for each in numeric]
        named = zip(kinds, self.columns, strict=True)
        head = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in named)
        body = "".join(
            "<tr>"
            + "".join(f"<td{kind}>{escape(_short(cell))}</td>" for kind, cell in zip(kinds, row, strict=True))
            + "</tr>"
            for row in self.rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


@dataclass(frozen=True)
class Finding:
    """One analysis, done: what a report shows as a section."""

    name: str
    """Name of its files, without ending: "mid-layer-leap"."""
    title: str
    """Its headline."""
    note: str
    """What was computed and from how much, what it can and cannot show; sentences."""
    table: Table
    """The numbers."""
    draw: "Callable[[], Figure] | None" = None
    """Draws the figure from those numbers, with matplotlib; None for a table alone."""


def _short(cell: Cell) -> str:
    match cell:
        case None:
            return ""
        case bool():
            return "yes" if cell else "no"
        case float():
            if abs(cell) < 1e-12:  # what rounding left of nothing
                return "0"
            return f"{cell:.4g}" if abs(cell) < 1000 else f"{cell:,.0f}"
        case int():
            return f"{cell:,}"
    return cell


def _is_number(cell: Cell) -> bool:
    """Whether a column of such cells is one of numbers: unknown ones do not stand in the way."""
    return cell is None or (isinstance(cell, int | float) and not isinstance(cell, bool))
