"""Options that several verbs share; named and defaulted like the arguments of the functions behind them."""

from typing import Annotated

import typer

__all__ = ["BankName", "DeviceMap", "Dtype", "Json", "Model", "Overwrite", "Revision", "TrustRemoteCode"]

_LOADING = "How the model is loaded"

BankName = Annotated[
    str,
    typer.Argument(
        metavar="BANK", help="A bank folder, an embedded model's name, or owner/name on the Hub.", show_default=False
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", metavar="MODEL", help="An embedded model's name, a Hugging Face folder, or a Hub id."
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(metavar="REV", help="Branch, tag or commit of a Hub id.", rich_help_panel=_LOADING),
]
Dtype = Annotated[
    str,
    typer.Option(
        metavar="TYPE",
        help="auto (as the weights are stored), float32, bfloat16 or float16.",
        rich_help_panel=_LOADING,
    ),
]
DeviceMap = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE",
        help="cuda:0, mps, …, or auto to spread over devices (needs accelerate). The CPU if left out.",
        rich_help_panel=_LOADING,
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", metavar="", help="Run Python code that comes with the model.", rich_help_panel=_LOADING
    ),
]
Json = Annotated[bool, typer.Option("--json", metavar="", help="Print one JSON object instead.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", metavar="", help="Replace what an earlier run wrote there.")]
