"""`patchlens bank info`: what a bank holds and how it was made."""

from typing import Any

from patchlens.cli.options import BankName, Json
from patchlens.cli.terminal import draw, progress, say_json

__all__ = ["describe", "info"]


def info(bank: BankName, json: Json = False) -> None:
    """Say what a bank holds and how it was made."""
    described = _described(bank)
    if json:
        say_json(described)
    else:
        describe(described)


def _described(bank: str) -> dict[str, Any]:
    from patchlens.bank.bank import open_bank

    with progress() as report:
        return open_bank(bank, report=report).info()


def describe(about: dict[str, Any]) -> None:
    """Draw what `Bank.info` says as a table."""
    from rich.table import Table
    from rich.text import Text

    from patchlens.lenses.summary import printable

    settings, corpus = about["settings"], about["corpus"]
    rows = {
        "bank": about["folder"],
        "size": f"{about['bytes'] / 1e6:,.1f} MB, format version {about['format_version']}",
        "contexts": f"{about['rows']:,} of {about['words']:,} words in {about['sentences']:,} sentences",
        "vectors": f"layers {', '.join(map(str, about['layers']))}; {about['d_model']} × {about['dtype']}",
        "model": about["model"] + (f" at {about['revision']}" if about["revision"] else ""),
        "weights": about["fingerprint"],
        "tokenizer": about["tokenizer"],
        "corpus": ", ".join(
            f"{corpus[name]:,} {name}" for name in ("sentences", "tokens", "prefixes") if name in corpus
        ),
        "chosen": _chosen(settings),
        "made with": ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(printable(value)))
    draw(table)


def _chosen(settings: dict[str, Any]) -> str:
    """The rule by which contexts were chosen; banks that were imported have none that is known."""
    merged = f", merged from {len(settings['merged'])} corpora" if "merged" in settings else ""
    if settings["per_token"] is None:
        return f"{settings['choose']}{merged}"
    return (
        f"{settings['choose']}, at most {settings['per_token']} per token, words {settings['words']}, "
        f"seed {settings['seed']}{merged}"
    )
