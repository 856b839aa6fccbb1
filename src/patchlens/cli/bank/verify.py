"""`patchlens bank verify`: read a whole bank and check it."""

from typing import Annotated

import typer

from patchlens.cli.options import BankName, DeviceMap, Revision, TrustRemoteCode
from patchlens.cli.terminal import progress, say

__all__ = ["verify"]


def verify(
    bank: BankName,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="MODEL", help="The bank's model: 64 rows are computed again and compared."
        ),
    ] = None,
    revision: Revision = None,
    device_map: DeviceMap = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Read a whole bank and check every hash, count and vector."""
    from patchlens.bank.bank import open_bank
    from patchlens.models.loading import load_model

    with progress() as report:
        opened = open_bank(bank, report=report)
        loaded = None
        if model is not None:
            report("Loading the model", 0, 1)
            loaded = load_model(
                model,
                revision=revision,
                dtype=str(opened.provenance.settings.get("compute_dtype", "auto")),
                device_map=device_map,
                trust_remote_code=trust_remote_code,
            )
            report("Loading the model", 1, 1)
        opened.verify(report, loaded)
    say(f"{opened.folder}: whole. {len(opened):,} contexts at {len(opened.layers)} layers, all hashes as recorded.")
    if loaded is not None:
        say(f"Rows computed again with {loaded.name} are the same.")
