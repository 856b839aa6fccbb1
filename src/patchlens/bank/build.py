"""From a corpus and a model to a bank on disk, over as many attempts and with as many workers as it takes."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from patchlens.bank.attempt import Crew, Source, Task, build, skipped
from patchlens.bank.bank import Bank
from patchlens.bank.encoding import DTYPES, row_bytes
from patchlens.bank.extract import check_packing, choose_packing, probe
from patchlens.bank.plan import MAX_POSITIONS, Plan, Selection, make_plan
from patchlens.bank.workers import team
from patchlens.errors import OptionError
from patchlens.inputs.corpus import Corpus, read_corpus
from patchlens.models.loading import load_model, model_of
from patchlens.models.model import Model
from patchlens.models.site import resolve_layers
from patchlens.progress import Report, silent
from patchlens.provenance import JSON

__all__ = ["Estimate", "auto_layers", "build_bank", "build_more", "plan_bank"]

LAUNCHERS = ("processes", "ray")


def build_bank(
    model: str | Path | Model | tuple[Any, Any],
    corpus: str | Path | Iterable[str] | Corpus,
    out: str | Path,
    *,
    layers: str | int | Sequence[int] = "auto",
    per_token: int = 20,
    choose: str = "spread",
    words: str = "all",
    skip_positions: int | None = None,
    dtype: str = "float16",
    compute_dtype: str | None = None,
    workers: int = 1,
    launcher: str = "processes",
    seed: int = 0,
    column: str | int | None = None,
    strict: bool = False,
    overwrite: bool = False,
    report: Report = silent,
) -> Bank:
    """Store the contextual embeddings of a corpus's tokens, as unit directions.

    Each prefix of a sentence is one context, however often it occurs. Special tokens and the first position (the
    attention sink, whatever the tokenizer puts there) are never kept. The same inputs give the same bytes, on the same
    kind of machine with as many threads a worker.

    A build that is interrupted, killed or out of disk space leaves its state in `.<name>.build` beside `out`, and the
    same call goes on with it. Started by torchrun or Slurm as several processes, they share the work; all must see
    `out`.

    Args:
        model: A model, what `load_model` takes, or a causal language model of transformers and its tokenizer.
        corpus: What `read_corpus` takes or gives. Of each sentence, the first 512 tokens are used.
        out: The folder to make.
        layers: "auto" for the paper's 1, 2, 4, 8, 16, 24 and the last two before the last (all of 1 to L - 1 in
            models of fewer than 8 blocks); or what `resolve_layers` takes: "all", "0,4,8-12", numbers.
        per_token: Contexts kept per token id, at most (the paper: 20).
        choose: Which of them: "spread", the most different for the fewest prefixes to run; a uniform "reservoir" by
            `seed`; or the "first" of the corpus.
        words: "all" tokens, or only the "final" one of each word, where the model has seen the whole word.
        skip_positions: Leave out this many positions at the start of each sentence, special tokens counted; None
            leaves out the first alone. The reference package: 2.
        dtype: What the vectors are stored as: a key of `DTYPES`.
        compute_dtype: What the model is loaded as: "float32", "bfloat16", "float16"; None or "auto" for what its
            weights are stored in. A loaded model has its own.
        workers: Processes, or Ray actors, that share the work. On a CPU they share its threads; on GPUs, this process
            has the model's and the others take the next ones in turn.
        launcher: What starts them: "processes" on this machine, or "ray" on its cluster (on this machine if there is
            none).
        seed: Seed of the choice.
        column: Of a CSV, JSON or Parquet corpus, see `read_corpus`.
        strict: Whether a line of the corpus that cannot be used is an error.
        overwrite: Replace a bank that is at `out`, at the last moment.
        report: Called with stage "plan" and sentences done, of an unknown total (0); "compare", the same, where a
            build goes on; "run" and token positions done.

    Returns:
        The bank, opened. If `out` is just this bank already, it is opened and nothing is done.

    Raises:
        CorpusError: The corpus cannot be read, or holds no context.
        OptionError: A value outside its range, a layer that does not exist, or something in the way at `out`.
        ModelError: The model cannot be loaded, has a tokenizer without a fast version, or fails the self-check.
        NonFiniteStates: The model gives NaN, infinity or zero.
        BankBusy: Another process is building this bank.
        BuildMismatch: A build with another model, corpus or option was begun there.
        StorageError: The disk refused. Space for all vectors is taken before the model runs.
        MissingExtra: `launcher` is "ray", which is not installed.

    Reference:
        LatentLens, arXiv 2602.00462, section 3; the package latentlens 0.1.0 for the prefix dedup. Departures:
        the sink is left out by position rather than positions 0 and 1 always, the cap is per token id rather
        than per decoded string, and the choice is not the corpus's order.
    """
    selection = Selection(per_token, choose, words, skip_positions, seed)
    _check_options(dtype, workers, launcher)
    source = Source(corpus if isinstance(corpus, Corpus) else read_corpus(corpus, column=column, strict=strict))
    others = team() if workers == 1 and launcher == "processes" else None
    if others is not None and overwrite:
        raise OptionError(
            f"Building a bank with {others.size} processes: they cannot agree on which of them overwrites {out}. "
            "Remove the old bank first."
        )

    def prepare() -> Task:
        loaded = model_of(*model) if isinstance(model, tuple) else load_model(model, dtype=compute_dtype or "auto")
        return _task(loaded, compute_dtype, selection, layers, dtype)

    return build(prepare, source, Path(out), Crew(workers, launcher, others), overwrite, not overwrite, report)


def build_more(
    bank: Bank,
    model: Model,
    sentences: Corpus,
    out: Path,
    narrow: Callable[[Plan], Plan],
    *,
    workers: int = 1,
    launcher: str = "processes",
    report: Report = silent,
) -> Bank:
    """Build a bank of other sentences by another bank's rule, of a part of its plan; see `add_to_bank`.

    Args:
        bank: Its rule, layers and types are used.
        model: The model that it was built with.
        sentences: The corpus.
        out: The folder to make, or the bank to replace; if it is just this one already, nothing is done.
        narrow: Gives the part of the plan that is to be built; what it raises ends the build, and nothing is kept.
        workers: As in `build_bank`.
        launcher: As in `build_bank`.
        report: As in `build_bank`.

    Raises:
        PatchlensError: As `build_bank`.
    """
    _check_options(bank.dtype, workers, launcher)
    settings: dict[str, Any] = bank.provenance.settings
    selection = Selection(**{field.name: settings[field.name] for field in fields(Selection)})
    to = hashlib.sha256(json.dumps(bank.manifest.to_json(), sort_keys=True).encode()).hexdigest()

    def prepare() -> Task:
        return _task(model, None, selection, bank.layers, bank.dtype, narrow, added_to=to)

    return build(prepare, Source(sentences), out, Crew(workers, launcher, None), True, True, report)


def auto_layers(n_layers: int) -> tuple[int, ...]:
    """The paper's layers that a model of `n_layers` blocks has; the last block's output is not among them."""
    if n_layers < 8:
        return tuple(range(1, n_layers)) or (1,)
    return tuple(sorted({layer for layer in (1, 2, 4, 8, 16, 24, n_layers - 2, n_layers - 1) if layer < n_layers}))


@dataclass(frozen=True)
class Estimate:
    """What a bank would hold and cost."""

    sentences: int
    """Read from the corpus."""
    skipped: int
    """Lines of it that cannot be used."""
    tokens: int
    """Of the sentences, each cut at the last position looked at."""
    prefixes: int
    """Distinct ones among them."""
    prefixes_run: int
    """Token positions that the model runs."""
    rows: int
    """Contexts kept."""
    layers: tuple[int, ...]
    """Layers stored."""
    layer_bytes: dict[str, int]
    """Disk space of one layer, for each stored type."""
    dtype: str
    """The type asked for."""
    prefixes_per_second: float
    """Measured on this model, here, with one worker."""

    @property
    def bytes(self) -> int:
        """Disk space of all vectors; the tables come on top."""
        return self.layer_bytes[self.dtype] * len(self.layers)

    @property
    def seconds(self) -> float:
        """Time that the model would run, with one worker."""
        return self.prefixes_run / self.prefixes_per_second


def plan_bank(
    model: str | Path | Model | tuple[Any, Any],
    corpus: str | Path | Iterable[str] | Corpus,
    *,
    layers: str | int | Sequence[int] = "auto",
    per_token: int = 20,
    choose: str = "spread",
    words: str = "all",
    skip_positions: int | None = None,
    dtype: str = "float16",
    compute_dtype: str | None = None,
    seed: int = 0,
    column: str | int | None = None,
    strict: bool = False,
    report: Report = silent,
) -> Estimate:
    """Say what `build_bank` would build and what that would take, without building it.

    Args:
        model: As in `build_bank`, as all that follow.
        corpus: The sentences.
        layers: Layers to store.
        per_token: Contexts kept per token id.
        choose: The rule of choice.
        words: Which tokens.
        skip_positions: Positions left out.
        dtype: The stored type.
        compute_dtype: The model's type.
        seed: Seed of the choice.
        column: Of the corpus.
        strict: Whether a line that cannot be used is an error.
        report: Called with stage "plan" and sentences done; "probe" while the model is timed, for some two seconds.

    Raises:
        PatchlensError: As `build_bank`.
    """
    selection = Selection(per_token, choose, words, skip_positions, seed)
    _check_options(dtype, 1, "processes")
    sentences = corpus if isinstance(corpus, Corpus) else read_corpus(corpus, column=column, strict=strict)
    loaded = model_of(*model) if isinstance(model, tuple) else load_model(model, dtype=compute_dtype or "auto")
    task = _task(loaded, compute_dtype, selection, layers, dtype)
    plan = make_plan(task.model.tokenizer, sentences, task.selection, report)
    packing = choose_packing(task.model, plan)
    report("probe", 0, 1)
    check_packing(task.model, plan, task.layers, packing)
    speed = probe(task.model, plan, task.layers, packing)
    report("probe", 1, 1)
    counts: dict[str, Any] = plan.counts
    return Estimate(
        sentences=counts["sentences"],
        skipped=skipped(sentences),
        tokens=counts["tokens"],
        prefixes=counts["prefixes"],
        prefixes_run=counts["prefixes_run"],
        rows=len(plan),
        layers=task.layers,
        layer_bytes={name: len(plan) * row_bytes(task.model.d_model, name) for name in DTYPES},
        dtype=dtype,
        prefixes_per_second=speed,
    )


def _check_options(dtype: str, workers: int, launcher: str) -> None:
    if dtype not in DTYPES:
        raise OptionError(f"Building a bank: dtype is {dtype!r}. Expected one of {', '.join(DTYPES)}.")
    if launcher not in LAUNCHERS:
        raise OptionError(f"Building a bank: launcher is {launcher!r}. Expected one of {', '.join(LAUNCHERS)}.")
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise OptionError(f"Building a bank: workers is {workers!r}. Expected a whole number from 1.")
    if launcher == "ray":
        from patchlens.bank.launch_ray import check_installed

        check_installed()


def _task(
    model: Model,
    compute_dtype: str | None,
    selection: Selection,
    layers: str | int | Sequence[int],
    dtype: str,
    narrow: Callable[[Plan], Plan] | None = None,
    **more: JSON,
) -> Task:
    computed = str(next(model.decoder.parameters()).dtype).removeprefix("torch.")
    if compute_dtype not in (None, "auto", computed):
        raise OptionError(
            f"Building a bank: compute_dtype is {compute_dtype!r}, but {model.name} was loaded in {computed}. Load it "
            f"with dtype={compute_dtype!r}, or leave compute_dtype out."
        )
    limit = getattr(model.decoder.config, "max_position_embeddings", None) or MAX_POSITIONS
    selection = replace(selection, max_positions=min(MAX_POSITIONS, limit))
    kept = auto_layers(model.n_layers) if layers == "auto" else resolve_layers(layers, model.n_layers)
    settings: dict[str, JSON] = {
        **selection.to_json(),
        "layers": list(kept),
        "dtype": dtype,
        "compute_dtype": computed,
        **more,
    }
    # Without the time: the same inputs give the same bytes.
    return Task(model, selection, kept, dtype, replace(model.provenance("bank", **settings), created=None), narrow)
