"""`patchlens bank verify`: read a whole bank and check it."""

from patchlens.cli.options import BankName
from patchlens.cli.terminal import progress, say

__all__ = ["verify"]


def verify(bank: BankName) -> None:
    """Read a whole bank and check every hash, count and vector."""
    from patchlens.bank.bank import open_bank

    with progress() as report:
        opened = open_bank(bank, report=report)
        opened.verify(report)
    say(f"{opened.folder}: whole. {len(opened):,} contexts at {len(opened.layers)} layers, all hashes as recorded.")
