"""`patchlens search`: which contexts of a bank lie nearest to a text's own last hidden state."""

from typing import Annotated, Any

import typer

from patchlens.cli.options import BankName, Json
from patchlens.cli.terminal import draw, progress, say_json

__all__ = ["search"]


def search(
    bank: BankName,
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="What to look up: the state of its last token.", show_default=False)
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="MODEL", help="Where the bank's model is; what it was built with if left out."
        ),
    ] = None,
    layers: Annotated[
        str, typer.Option(metavar="LAYERS", help="Layers of the text: all that the bank holds, or such as 0,4,8-12,-1.")
    ] = "all",
    k: Annotated[int, typer.Option(metavar="N", help="Contexts for each layer.")] = 5,
    unique: Annotated[str | None, typer.Option(metavar="WHAT", help="word or sentence: show each only once.")] = None,
    space: Annotated[
        str, typer.Option(metavar="SPACE", help="raw, centred or standardised: where cosines are taken.")
    ] = "raw",
    words: Annotated[str | None, typer.Option(metavar="WORDS", help="Only these words, with commas between.")] = None,
    sources: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Only sentences from there, such as 'news.txt:*'.")
    ] = None,
    containing: Annotated[str | None, typer.Option(metavar="TEXT", help="Only sentences with this in them.")] = None,
    json: Json = False,
) -> None:
    """Look around in a bank: what lies nearest to the last token of a text, layer by layer."""
    from patchlens.bank.bank import open_bank
    from patchlens.models.loading import load_model
    from patchlens.models.site import resolve_layers
    from patchlens.search.text import search_text

    with progress() as report:
        opened = open_bank(bank, report=report)
        where = None
        if words is not None or sources is not None or containing is not None:
            listed = None if words is None else [word.strip() for word in words.split(",")]
            where = opened.where(words=listed, sources=sources, text=containing)
        loaded = load_model(model or opened.provenance.model)
        wanted = None if layers == "all" else resolve_layers(layers, loaded.n_layers)
        found = search_text(opened, text, model=loaded, layers=wanted, k=k, unique=unique, where=where, space=space)
    tables = {layer: matches.table for layer, matches in found.items()}
    if json:
        say_json({"text": text, "layers": {str(layer): _rows(table) for layer, table in tables.items()}})
        return
    draw(_drawn(text, {layer: _rows(table) for layer, table in tables.items()}))


def _rows(table: Any) -> list[Any]:
    names = ("rank", "similarity", "layer", "row", "word", "sentence", "source", "word_start", "word_end")
    return [{**row, "similarity": round(row["similarity"], 6)} for row in table.select(names).to_pylist()]


def _drawn(text: str, found: dict[int, list[dict[str, Any]]]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from patchlens.lenses.summary import printable

    drawing = Table(title=Text(printable(text)), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    drawing.expand = True
    drawing.add_column("layer", justify="right", no_wrap=True)
    drawing.add_column("cosine", justify="right", no_wrap=True)
    drawing.add_column("word", style="cyan", no_wrap=True, overflow="ellipsis", max_width=16)
    drawing.add_column("at", justify="right", no_wrap=True)
    drawing.add_column("sentence", ratio=1, no_wrap=True, overflow="ellipsis")
    for layer, rows in found.items():
        for number, row in enumerate(rows):
            drawing.add_row(
                str(layer) if number == 0 else "",
                f"{row['similarity']:.3f}",
                Text(printable(row["word"])),
                str(row["layer"]),
                _excerpt(row),
                end_section=number == len(rows) - 1,
            )
    return drawing


def _excerpt(row: dict[str, Any], before: int = 20) -> Any:
    """The sentence from a little before the word, which is marked."""
    from rich.text import Text

    from patchlens.lenses.summary import printable

    start, end = row["word_start"], row["word_end"]
    first = 0 if start <= before + 2 else start - before
    parts = row["sentence"][first:start], row["sentence"][start:end], row["sentence"][end:]
    lead, word, rest = (printable(" ".join(part.split("\n"))) for part in parts)
    return Text.assemble(*(("… ", lead.lstrip()) if first else (lead,)), (word, "cyan"), rest)
