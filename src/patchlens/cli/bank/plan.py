"""`patchlens bank plan`: what a bank would hold and cost, before it is built."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from patchlens.cli.bank.build import (
    BankDtype,
    Choose,
    Column,
    Corpus,
    Layers,
    PerToken,
    Seed,
    SkipPositions,
    Strict,
    Words,
)
from patchlens.cli.options import DeviceMap, Dtype, Json, Model, Revision, TrustRemoteCode
from patchlens.cli.terminal import complain, draw, duration, progress, say_json

if TYPE_CHECKING:
    from patchlens.bank.build import Estimate

__all__ = ["plan"]


def plan(
    model: Model,
    corpus: Corpus,
    layers: Layers = "auto",
    per_token: PerToken = 20,
    choose: Choose = "spread",
    words: Words = "all",
    skip_positions: SkipPositions = None,
    bank_dtype: BankDtype = "float16",
    seed: Seed = 0,
    json: Json = False,
    column: Column = None,
    strict: Strict = False,
    revision: Revision = None,
    compute_dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Say what `bank build` would build with these options, on how much disk and in what time.

    The corpus is read and the contexts are chosen; then the model runs for some two seconds.
    """
    from patchlens.bank.build import plan_bank
    from patchlens.bank.plan import Selection
    from patchlens.inputs.corpus import read_corpus
    from patchlens.models.loading import load_model

    Selection(per_token, choose, words, skip_positions, seed)  # refuses before the model is loaded
    sentences = read_corpus(corpus, column=column, strict=strict)
    with progress() as report:
        report("Loading the model", 0, 1)
        loaded = load_model(
            model, revision=revision, dtype=compute_dtype, device_map=device_map, trust_remote_code=trust_remote_code
        )
        report("Loading the model", 1, 1)
        estimate = plan_bank(
            loaded,
            sentences,
            layers=layers,
            per_token=per_token,
            choose=choose,
            words=words,
            skip_positions=skip_positions,
            dtype=bank_dtype,
            seed=seed,
            report=report,
        )
    if skipped := sentences.describe_skipped():
        complain(skipped)
    if json:
        say_json({**asdict(estimate), "bytes": estimate.bytes, "seconds": estimate.seconds})
        return
    _describe(estimate)


def _describe(estimate: "Estimate") -> None:
    from rich.table import Table

    sizes = ", ".join(f"{size / 1e6:,.1f} MB in {name}" for name, size in estimate.layer_bytes.items())
    rows = {
        "sentences": f"{estimate.sentences:,}; {estimate.skipped:,} lines skipped",
        "tokens": f"{estimate.tokens:,}; {estimate.prefixes:,} distinct prefixes",
        "to run": f"{estimate.prefixes_run:,} prefixes, {estimate.prefixes_run / estimate.rows:.2f} a context",
        "contexts": f"{estimate.rows:,}",
        "one layer": sizes,
        "disk": f"{estimate.bytes / 1e6:,.1f} MB: layers {', '.join(map(str, estimate.layers))} in {estimate.dtype}, "
        "and the tables",
        "time": f"about {duration(estimate.seconds)} with one worker, at {estimate.prefixes_per_second:,.0f} prefixes "
        "a second here and now",
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    draw(table)
