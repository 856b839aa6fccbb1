"""`patchlens bank add`: more sentences for a bank."""

from pathlib import Path
from typing import Annotated, Any

import typer

from patchlens.cli.bank.build import Column, Corpus, Strict
from patchlens.cli.bank.info import describe
from patchlens.cli.options import BankName, DeviceMap, Json, Model, Overwrite, Revision, TrustRemoteCode
from patchlens.cli.terminal import complain, progress, say, say_json

__all__ = ["add"]


def add(
    bank: BankName,
    model: Model,
    corpus: Corpus,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Folder to make; the bank itself is replaced if left out."),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    column: Column = None,
    strict: Strict = False,
    workers: Annotated[int, typer.Option(metavar="N", help="Processes that share the work.")] = 1,
    revision: Revision = None,
    device_map: DeviceMap = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Add sentences to a bank, by the rule that it was built by.

    Only contexts that the bank lacks are run, with the model that it was built with. When this is interrupted, the bank
    is as it was, and the same command goes on.
    """
    from patchlens.bank.adding import add_to_bank
    from patchlens.bank.bank import open_bank
    from patchlens.inputs.corpus import read_corpus
    from patchlens.models.loading import load_model

    sentences = read_corpus(corpus, column=column, strict=strict)
    with progress() as report:
        before = open_bank(bank, report=report)
        report("Loading the model", 0, 1)
        loaded = load_model(
            model,
            revision=revision,
            dtype=str(before.provenance.settings.get("compute_dtype") or "auto"),
            device_map=device_map,
            trust_remote_code=trust_remote_code,
        )
        report("Loading the model", 1, 1)
        after = add_to_bank(before, sentences, loaded, out=out, workers=workers, overwrite=overwrite, report=report)
    if skipped := sentences.describe_skipped():
        complain(skipped)
    parts: Any = after.provenance.settings.get("merged")
    added = 0 if after.manifest == before.manifest else parts[-1]["rows"]
    replaced = len(before) + added - len(after)
    if json:
        say_json({**after.info(), "added": added, "replaced": replaced})
        return
    say(f"{added:,} contexts added, {replaced:,} of the old ones replaced.")
    describe(after.info())
