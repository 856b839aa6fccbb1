"""More sentences for a bank, by the rule that it was built by: only contexts that it lacks are run."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from patchlens.bank import format as layout
from patchlens.bank.bank import Bank, open_bank
from patchlens.bank.build import build_more
from patchlens.bank.merge import kept_rows, write_merged
from patchlens.bank.plan import Plan
from patchlens.errors import BankMismatch, OptionError
from patchlens.inputs.corpus import Corpus, read_corpus
from patchlens.models.loading import load_model, model_of
from patchlens.models.model import Model
from patchlens.progress import Report, silent
from patchlens.storage import cache_folder, replacing_folder

__all__ = ["add_to_bank"]


def add_to_bank(
    bank: str | Path | Bank,
    corpus: str | Path | Iterable[str] | Corpus,
    model: str | Path | Model | tuple[Any, Any],
    *,
    out: str | Path | None = None,
    workers: int = 1,
    launcher: str = "processes",
    column: str | int | None = None,
    strict: bool = False,
    overwrite: bool = False,
    report: Report = silent,
) -> Bank:
    """Add the contexts of more sentences to a bank, as if it and a bank of these were merged (see `merge_banks`).

    Which contexts come in is decided from the text: those that the bank lacks and has room for, or under
    `choose="reservoir"` those of a smaller rank than some that it has, which then leave. Only these are run. Sentences
    that bring nothing new leave the bank as it is, byte for byte.

    When it is interrupted, the bank is as it was, and the same call goes on: what was run is kept beside `out`, in
    `.<name>.added` or its build folder.

    Args:
        bank: The bank.
        corpus: What `read_corpus` takes or gives.
        model: The bank's model, as in `build_bank`. By name, it is loaded in the type that the bank was computed in.
        out: The folder to make; None puts the bank in the place of the old one, at the last moment.
        workers: As in `build_bank`.
        launcher: As in `build_bank`.
        column: Of a CSV, JSON or Parquet corpus, see `read_corpus`.
        strict: Whether a line of the corpus that cannot be used is an error.
        overwrite: Replace a bank that is at `out`.
        report: Called with the stages of `build_bank`, then "merge" and rows copied.

    Returns:
        The bank, opened. `settings["merged"]` of its provenance lists what was added, with the rows that it brought.

    Raises:
        BankMismatch: Another model, tokenizer or type computed in than the bank's, or an imported bank, which has no
            rule to go by.
        OptionError: Something in the way at `out`, or a bank in the cache that is to be replaced.
        PatchlensError: As `build_bank`.
    """
    opened = open_bank(bank, report=report)
    folder = opened.folder if out is None else Path(out)
    if out is None and opened.folder.resolve().is_relative_to(cache_folder().resolve()):
        raise OptionError(
            f"Adding to the bank {opened.name}: it lies in the cache, where banks can be made again. Name a folder for "
            "the new one."
        )
    sentences = corpus if isinstance(corpus, Corpus) else read_corpus(corpus, column=column, strict=strict)
    loaded = _loaded(opened, model)
    held, rule = (opened.contexts, opened.sentences), opened.provenance.settings

    def narrow(plan: Plan) -> Plan:
        _, new = kept_rows([held, (plan.contexts, plan.sentences)], rule)
        if not new.any():
            raise _NothingNewError
        return plan.only(new)

    extra = folder.with_name(f".{folder.name}.added")
    try:
        with replacing_folder(folder, overwrite=overwrite or out is None, marker=layout.MANIFEST) as made:
            try:
                more = build_more(
                    opened, loaded, sentences, extra, narrow, workers=workers, launcher=launcher, report=report
                )
            except _NothingNewError:
                if out is None:
                    raise
                for name in (layout.MANIFEST, *opened.manifest.files):
                    shutil.copyfile(opened.folder / name, made / name)
            else:
                kept = kept_rows([held, (more.contexts, more.sentences)], rule)
                write_merged(made, [opened, more], kept, report)
    except _NothingNewError:
        return opened
    shutil.rmtree(extra, ignore_errors=True)
    return open_bank(folder)


class _NothingNewError(Exception):
    """The bank has all that the sentences could bring."""


def _loaded(bank: Bank, model: str | Path | Model | tuple[Any, Any]) -> Model:
    """The bank's model, and surely that one."""
    made = bank.provenance
    computed = made.settings.get("compute_dtype")
    if computed is None or made.settings.get("per_token") is None:
        raise BankMismatch(
            f"Adding to the bank {bank.folder}: it was imported, so the rule by which its contexts were chosen is not "
            "known. Build a bank of the new sentences instead, with 'patchlens bank build'."
        )
    loaded = model_of(*model) if isinstance(model, tuple) else load_model(model, dtype=str(computed))
    found = {
        "weights": f"{loaded.fingerprint[:16]}…",
        "tokenizer": f"{loaded.tokenizer_fingerprint[:16]}…",
        "compute_dtype": str(next(loaded.decoder.parameters()).dtype).removeprefix("torch."),
    }
    expected = {
        "weights": f"{made.fingerprint[:16]}…",
        "tokenizer": f"{made.tokenizer[:16]}…",
        "compute_dtype": computed,
    }
    if differing := [f"{name} ({expected[name]} and {found[name]})" for name in found if found[name] != expected[name]]:
        raise BankMismatch(
            f"Adding to the bank {bank.folder}, which was built with {made.model}: it and {loaded.name} differ in "
            f"{', '.join(differing)}. Give the model that the bank was built with, loaded as {computed}."
        )
    return loaded
