"""From a corpus and a model to a bank on disk: plan, lay out the files, run, describe. Nothing half-written stays."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from patchlens.bank import format as layout
from patchlens.bank.bank import Bank, open_bank
from patchlens.bank.extract import extract
from patchlens.bank.format import DTYPES, Manifest, VectorFiles
from patchlens.bank.plan import MAX_POSITIONS, Plan, Selection, make_plan
from patchlens.errors import OptionError
from patchlens.inputs.corpus import read_corpus
from patchlens.models.loading import load_model
from patchlens.models.model import Model
from patchlens.models.site import resolve_layers
from patchlens.progress import Report, silent
from patchlens.provenance import JSON
from patchlens.storage import replacing_folder

__all__ = ["auto_layers", "build_bank"]


def build_bank(
    model: str | Path | Model,
    corpus: str | Path | Iterable[str],
    out: str | Path,
    *,
    layers: str | int | Sequence[int] = "auto",
    per_token: int = 20,
    choose: str = "reservoir",
    words: str = "all",
    skip_positions: int | None = None,
    dtype: str = "float16",
    seed: int = 0,
    overwrite: bool = False,
    report: Report = silent,
) -> Bank:
    """Store the contextual embeddings of a corpus's tokens, as unit directions.

    Each prefix of a sentence is one context, however often it occurs. Special tokens and the first position (the
    attention sink, whatever the tokenizer puts there) are never kept. The same inputs give the same bytes.

    Args:
        model: A model, or what `load_model` takes.
        corpus: A text file with one sentence a line, or the sentences. Of each, the first 512 tokens are used.
        out: The folder to make.
        layers: "auto" for the paper's 1, 2, 4, 8, 16, 24 and the last two before the last (all of 1 to L - 1 in
            models of fewer than 8 blocks); or what `resolve_layers` takes: "all", "0,4,8-12", numbers.
        per_token: Contexts kept per token id, at most (the paper: 20).
        choose: Which of them: "reservoir", a uniform choice by `seed`, or the "first" of the corpus.
        words: "all" tokens, or only the "final" one of each word, where the model has seen the whole word.
        skip_positions: Leave out this many positions at the start of each sentence, special tokens counted; None
            leaves out the first alone. The reference package: 2.
        dtype: What the vectors are stored as.
        seed: Seed of the reservoir.
        overwrite: Replace a bank that is at `out`.
        report: Called with stage "plan" and sentences done, then stage "run" and token positions done.

    Returns:
        The bank, opened.

    Raises:
        CorpusError: The corpus cannot be read, or holds no context.
        OptionError: A value outside its range, a layer that does not exist, or something in the way at `out`.
        ModelError: The model cannot be loaded, or its tokenizer has no fast version.
        NonFiniteStates: The model gives NaN, infinity or zero.
        StorageError: The disk refused. Space for all vectors is taken before the model runs.

    Reference:
        LatentLens, arXiv 2602.00462, section 3; the package latentlens 0.1.0 for the prefix dedup. Departures:
        the sink is left out by position rather than positions 0 and 1 always, the cap is per token id rather
        than per decoded string, and the choice is uniform over the corpus.
    """
    if dtype not in DTYPES:
        raise OptionError(f"Building a bank: dtype is {dtype!r}. Expected one of {', '.join(DTYPES)}.")
    out = Path(out)
    selection = Selection(per_token, choose, words, skip_positions, seed)
    with replacing_folder(out, overwrite=overwrite, marker=layout.MANIFEST) as folder:
        model = load_model(model)
        selection = _fitting(selection, model)
        kept = auto_layers(model.n_layers) if layers == "auto" else resolve_layers(layers, model.n_layers)
        plan = make_plan(model.tokenizer, list(read_corpus(corpus)), selection, report)
        _write_table(plan.contexts, folder / layout.CONTEXTS)
        _write_table(plan.sentences, folder / layout.SENTENCES)
        _write_vectors(folder, model, plan, kept, dtype, report)
        layout.write_manifest(folder, _manifest(folder, model, plan, kept, dtype, selection))
    return open_bank(out)


def auto_layers(n_layers: int) -> tuple[int, ...]:
    """The paper's layers that a model of `n_layers` blocks has; the last block's output is not among them."""
    if n_layers < 8:
        return tuple(range(1, n_layers)) or (1,)
    return tuple(sorted({layer for layer in (1, 2, 4, 8, 16, 24, n_layers - 2, n_layers - 1) if layer < n_layers}))


def _fitting(selection: Selection, model: Model) -> Selection:
    """The rule with its cut at the positions that the model has, where it has fewer."""
    limit = getattr(model.decoder.config, "max_position_embeddings", None) or MAX_POSITIONS
    return replace(selection, max_positions=min(MAX_POSITIONS, limit))


def _write_table(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd")


def _write_vectors(folder: Path, model: Model, plan: Plan, layers: tuple[int, ...], dtype: str, report: Report) -> None:
    files = VectorFiles(folder, layers, len(plan), model.d_model, dtype, layout.SHARD_BYTES)
    extract(model, plan, layers, files.write, report)


def _manifest(
    folder: Path, model: Model, plan: Plan, layers: tuple[int, ...], dtype: str, selection: Selection
) -> Manifest:
    settings: dict[str, JSON] = {
        **selection.to_json(),
        "layers": list(layers),
        "dtype": dtype,
        "compute_dtype": str(next(model.decoder.parameters()).dtype).removeprefix("torch."),
    }
    return Manifest(
        # Without the time: the same inputs give the same bytes.
        provenance=replace(model.provenance("bank", **settings), created=None),
        corpus={"sha256": plan.corpus, **plan.counts},
        layers=layers,
        d_model=model.d_model,
        dtype=dtype,
        rows=len(plan),
        files=layout.describe(folder),
    )
