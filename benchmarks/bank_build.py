"""Banks built by the reference package and by patchlens: same rows, same vectors; time, memory, share of the roofline.

    python benchmarks/bank_build.py [--out bank_build.json]     some 40 minutes, 20 GB of memory and of disk
    python benchmarks/bank_build.py --sentences 1000 --phrases 5000 --many 5000 --more-phrases 20000    a quick look

The reference package is installed into runs/reference, and its corpus is read there. Both build from a folder with a
random Llama (8 blocks, width 512, vocabulary 32,000, float32) and are timed from that folder to the end: of the
reference an index in memory, of patchlens a bank on disk. Each build has a process of its own.

    sentences     consecutive ones of the reference's corpus, and five times as many
    phrases       region-like ones, each once (see _phrases.py), and ten times as many; there the reference's time is
                  projected, from its time a padded position
    positions     token positions that are run: by the reference with padding, by patchlens each prefix once
    running       seconds from the first pack to the last row written
    roofline      operations of the linear layers that had to run, over what the machine's fastest matrix product of the
                  same precision does in that time
"""

import argparse
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import _banks as banks
import _reference as reference
from _measure import alone, gemm_rates, machine, table
from _workload import CONFIG, block, make_model, region_phrases, write
from patchlens.storage import write_json

STORED = {"float32": "float32", "bfloat16": "float16"}
SKIP = 2  # positions that the reference leaves out

Row = dict[str, Any]


@dataclass
class Results:
    """Everything measured, as it is written down."""

    gemm: list[Row] = field(default_factory=list)
    phrases: dict[str, Row] = field(default_factory=dict)
    builds: list[Row] = field(default_factory=list)
    comparisons: list[Row] = field(default_factory=list)
    cosines: list[Row] = field(default_factory=list)
    plans: list[Row] = field(default_factory=list)
    distances: list[Row] = field(default_factory=list)
    targets: list[Row] = field(default_factory=list)


def measure(options: argparse.Namespace, work: Path, found: Results) -> None:
    """Build everything once, one after the other, and put down what was found as it is found."""
    installed = reference.install(options.reference)
    lines = installed.corpus()
    model = make_model(work / "model", lines)
    corpora = {
        "sentences": write(work / "sentences.txt", block(lines, options.sentences)),
        "more sentences": write(work / "more_sentences.txt", block(lines, options.many)),
        "all sentences": write(work / "all_sentences.txt", lines),
    }
    for name, count in (("phrases", options.phrases), ("more phrases", options.more_phrases)):
        phrases, found.phrases[name] = region_phrases(lines, count)
        corpora[name] = write(work / f"{name}.txt", phrases)

    def theirs(corpus: str) -> None:
        say(f"the reference, {corpus}")
        row = alone(reference.build, installed, model, corpora[corpus], work / "theirs", options.per_token)
        say(f"  {row['seconds']:,.1f} s, {row['peak_bytes']:,} bytes")
        found.builds.append({"corpus": corpus, "by": "reference", **row})

    def ours(corpus: str, precision: str) -> None:
        say(f"patchlens, {corpus}, {precision}")
        rule = {"per_token": options.per_token, "choose": "first", "skip_positions": SKIP}
        types = {"compute_dtype": precision, "dtype": STORED[precision]}
        row = alone(banks.build, model, corpora[corpus], work / precision, **rule, **types)
        say(f"  {row['seconds']:,.1f} s, {row['peak_bytes']:,} bytes")
        found.builds.append({"corpus": corpus, "by": precision, **row})

    def drop(*names: str) -> None:
        for name in names:
            shutil.rmtree(work / name)

    gemm = partial(alone, gemm_rates, CONFIG.hidden_size, CONFIG.intermediate_size)
    say("matrix products")
    found.gemm.append(gemm())
    for corpus in ("sentences", "phrases"):
        theirs(corpus)
        ours(corpus, "float32")
        say("comparing")
        row = alone(banks.compare, model, work / "theirs", work / "float32")
        found.comparisons.append({"corpus": corpus, **row})
        drop("theirs")
        ours(corpus, "bfloat16")
        row = alone(banks.cosines, work / "float32", work / "bfloat16")
        found.cosines.append({"corpus": corpus, "layers": row})
        drop("float32", "bfloat16")
    for corpus in ("more sentences", "more phrases"):
        ours(corpus, "float32")
        drop("float32")
    found.gemm.append(gemm())
    for corpus in ("sentences", "all sentences", "phrases", "more phrases"):
        for per_token in sorted({20, options.per_token}):
            say(f"plans, {corpus}, {per_token} a token")
            rows = alone(banks.rules, model, corpora[corpus], per_token=per_token, skip_positions=SKIP)
            found.plans += [{"corpus": corpus, "per_token": per_token, **row} for row in rows]
    say("the embedded model")
    found.distances += alone(banks.distances, work, "4,7", 20)
    padded = alone(reference.padded_positions, model, corpora["more phrases"])
    _relate(found, options.per_token, padded)


def _relate(found: Results, per_token: int, padded: int) -> None:
    """Fill in what several measurements give together."""
    by = {(row["corpus"], row["by"]): row for row in found.builds}
    slow = by["phrases", "reference"]
    projected = slow["seconds"] / slow["positions"] * padded
    by["more phrases", "reference"] = {"corpus": "more phrases", "by": "reference, projected", "seconds": projected}
    by["more phrases", "reference"] |= {"positions": padded, "rows": by["more phrases", "float32"]["rows"]}
    found.builds.append(by["more phrases", "reference"])
    plans = {(row["corpus"], row["choose"], row["per_token"]): row for row in found.plans}
    d, mlp = CONFIG.hidden_size, CONFIG.intermediate_size
    for (corpus, precision), row in by.items():
        if precision == "reference":
            continue
        if (corpus, "reference") in by:
            row["times"] = by[corpus, "reference"]["seconds"] / row["seconds"]
        blocks, best = max(row["layers"]), row["stages"]["run"] * best_rate(found, precision)
        linear = 2 * blocks * row["positions"] * (4 * d**2 + 3 * d * mlp)
        row["roofline"] = linear / best
        if planned := plans.get((corpus, "first", per_token)):
            row["with_attention"] = (linear + 4 * blocks * d * planned["attended"]) / best
    found.targets += targets(by, found)


def best_rate(found: Results, precision: str) -> float:
    """Operations a second of the fastest matrix product."""
    return max(rate for rates in found.gemm for rate in rates[precision].values())


def targets(by: dict[tuple[str, str], Row], found: Results) -> list[Row]:
    """What was asked for, what came out, and whether that is enough."""
    short, long = by["sentences", "float32"], by["more sentences", "float32"]
    growth = abs(long["peak_bytes"] / short["peak_bytes"] - 1)
    memory = short["peak_bytes"] / by["sentences", "reference"]["peak_bytes"]
    at_least = {
        "times faster, sentences, float32": (short["times"], 4),
        "times faster, sentences, bfloat16": (by["sentences", "bfloat16"]["times"], 10),
        "times faster, phrases, float32": (by["phrases", "float32"]["times"], 50),
        "roofline, sentences, float32": (short["roofline"], 0.8),
        "roofline, sentences, bfloat16": (by["sentences", "bfloat16"]["roofline"], 0.5),
    }
    at_most = {
        "contexts that differ without a reason": (sum(len(row["unexplained"]) for row in found.comparisons), 0),
        "largest difference between vectors": (
            max(worst for row in found.comparisons for worst in row["worst_difference"].values()),
            1e-5,
        ),
        **{
            f"run per row, spread, {row['corpus']}, {row['per_token']} a token": (row["run_per_row"], 1.3)
            for row in found.plans
            if row["choose"] == "spread" and row["corpus"] == "all sentences"
        },
        "peak memory, change with more sentences": (growth, 0.1),
        "peak memory, share of the reference's": (memory, 1 / 3),
    }
    return [
        *({"what": what, "got": got, "at least": want, "met": got >= want} for what, (got, want) in at_least.items()),
        *({"what": what, "got": got, "at most": want, "met": got <= want} for what, (got, want) in at_most.items()),
    ]


def show(found: Results) -> None:
    """Print the tables."""
    for precision in STORED:
        print(f"fastest matrix product in {precision}: {best_rate(found, precision) / 1e9:,.0f} GFLOP/s")
    for name, row in found.phrases.items():
        print(f"{name}: {', '.join(f'{what} {value:,}' for what, value in row.items())}")
    print("\nBuilds")
    columns = ("corpus", "by", "rows", "positions", "seconds", "running", "peak_bytes", "times", "roofline")
    rows = [row | {"running": row.get("stages", {}).get("run", "")} for row in found.builds]
    print(table(rows, (*columns, "with_attention")))
    print("\nContexts of both")
    rows = [
        row
        | {"unexplained": len(row["unexplained"]), "largest_difference": max(row["worst_difference"].values())}
        | {"strings": " ".join(map(repr, row["of_strings_of_several_tokens"]))}
        for row in found.comparisons
    ]
    columns = ("corpus", "shared", "only_ours", "only_theirs", "unexplained", "largest_difference", "strings")
    print(table(rows, columns))
    print("\nCosine of bfloat16, stored as float16, with float32")
    rows = [
        {"corpus": row["corpus"], "layer": layer, "1 - mean": 1 - cosine["mean"], "1 - worst": 1 - cosine["worst"]}
        for row in found.cosines
        for layer, cosine in row["layers"].items()
    ]
    print(table(rows, ("corpus", "layer", "1 - mean", "1 - worst")))
    print("\nCorpora; the share of prefixes that no sentence before had")
    rows = [
        row | {"new": row["prefixes"] / row["tokens"]} for row in {row["corpus"]: row for row in found.plans}.values()
    ]
    print(table(rows, ("corpus", "sentences", "tokens", "prefixes", "new")))
    print("\nRules, by the plan alone; on the right, per token of which there are as many contexts as may be kept")
    columns = ("corpus", "per_token", "choose", "rows", "prefixes_run", "run_per_row", "seconds")
    of_full = ("full_tokens", "contexts", "sentences_of_them", "tokens_before", "pairs_before")
    print(table(found.plans, (*columns, *of_full)))
    print("\nRules in the embedded model, 20 a token; mean cosine distance between the contexts of such a token")
    rows = [row | {f"layer {layer}": far for layer, far in row["distance"].items()} for row in found.distances]
    print(table(rows, ("choose", "rows", "run_per_row", "full_tokens", "contexts", "layer 4", "layer 7")))
    print("\nWhat was asked for")
    print(table(found.targets, ("what", "got", "at least", "at most", "met")))


def say(what: str) -> None:
    """Tell what is going on."""
    print(f"  {what}", file=sys.stderr, flush=True)


def main() -> None:
    """Run, print, and write the rows if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=20_000)
    parser.add_argument("--many", type=int, default=100_000, help="sentences of the build that memory is compared with")
    parser.add_argument("--phrases", type=int, default=100_000)
    parser.add_argument("--more-phrases", type=int, default=1_000_000)
    parser.add_argument("--per-token", type=int, default=50)
    parser.add_argument(
        "--reference", type=Path, default=Path("runs/reference"), help="folder of its own to install into"
    )
    parser.add_argument("--work", type=Path, default=Path("runs"), help="where there is room for the banks meanwhile")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    found = Results()
    try:
        with tempfile.TemporaryDirectory(dir=options.work) as work:
            measure(options, Path(work), found)
        show(found)
    finally:  # what was measured before an interruption is worth something too
        if options.out:
            named = ("sentences", "many", "phrases", "more_phrases", "per_token")
            sizes = {name: getattr(options, name) for name in named}
            write_json(options.out, {"machine": machine(), "sizes": sizes, **vars(found)})


if __name__ == "__main__":
    main()
