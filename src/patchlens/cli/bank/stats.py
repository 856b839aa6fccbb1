"""`patchlens bank stats`: what the rows of a bank look like as vectors, and which words it holds."""

from typing import Any

from patchlens.cli.options import BankName, Json
from patchlens.cli.terminal import draw, progress, say_json

__all__ = ["stats"]

_FEW = 12  # words named


def stats(bank: BankName, json: Json = False) -> None:
    """Say how a bank's rows lie in space, layer by layer, and which words it holds most.

    Where rows drawn at random are all alike (a cosine near 1), raw cosines say little: search with --space centred.
    """
    from patchlens.bank.bank import open_bank

    with progress() as report:
        opened = open_bank(bank, report=report)
        measured = opened.statistics(report)
    layers = [{"layer": layer, **_of(about)} for layer, about in measured.layers.items()]
    words = opened.labels("word").value_counts().sort("descending", by="counts")
    described: dict[str, Any] = {
        "rows": len(opened),
        "words": len(words),
        "layers": layers,
        "most": [{"word": entry["values"], "rows": entry["counts"]} for entry in words[:_FEW].to_pylist()],
    }
    if json:
        say_json(described)
    else:
        _draw(described)


def _of(about: Any) -> dict[str, Any]:
    shares, largest = about.shares.sort(descending=True)
    return {
        "mean_cosine": round(about.mean_cosine, 4),
        "largest_share": round(float(shares[0]), 4),
        "largest_dimension": int(largest[0]),
        "half_in": int((shares.cumsum(0) < 0.5 * float(shares.sum())).sum()) + 1,
        "d_model": len(shares),
    }


def _draw(described: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from patchlens.lenses.summary import printable

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("layer", "cosine of two rows", "largest dimension", "half the length is in"):
        table.add_column(name, justify="right")
    for row in described["layers"]:
        table.add_row(
            str(row["layer"]),
            f"{row['mean_cosine']:.3f}",
            f"{row['largest_share']:.1%} in {row['largest_dimension']}",
            f"{row['half_in']} of {row['d_model']}",
        )
    named = ", ".join(f"{printable(entry['word'])} {entry['rows']:,}" for entry in described["most"])
    draw(
        table,
        Text(f"{described['rows']:,} contexts of {described['words']:,} words; most often {named}"),
    )
