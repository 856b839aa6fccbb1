"""How fast a large corpus is planned and how much memory that takes: region-like phrases, every rule.

    python benchmarks/plan_scale.py [--phrases 3000000] [--per-token 20] [--out plan_scale.json]

The phrases (see _phrases.py) are written to a file, each once; each plan reads that file in a process of its own.
Positions that the reference package would run, in batches of 32 with padding, are counted beside it.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import _banks as banks
import _reference as reference
from _measure import alone, machine, table
from _workload import make_tokenizer, region_phrases, write
from patchlens.storage import write_json

PHRASES_A_MINUTE, BYTES = 200_000, 4 << 30  # what was asked for


def main() -> None:
    """Run, print, and write the rows if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phrases", type=int, default=3_000_000)
    parser.add_argument("--per-token", type=int, default=20)
    parser.add_argument(
        "--reference", type=Path, default=Path("runs/reference"), help="folder of its own to install into"
    )
    parser.add_argument("--work", type=Path, default=Path("runs"), help="where the phrases go meanwhile")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    options.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        lines = reference.install(options.reference).corpus()
        tokenizer = make_tokenizer(Path(folder) / "tokenizer", lines)
        phrases, varied = region_phrases(lines, options.phrases)
        corpus = write(Path(folder) / "phrases.txt", phrases)
        del phrases, lines
        for choose in ("first", "reservoir", "spread"):
            print(f"  plan, {choose}", file=sys.stderr, flush=True)
            row = alone(banks.plan, tokenizer, corpus, per_token=options.per_token, choose=choose)
            row["phrases_a_minute"] = 60 * options.phrases / row["seconds"]
            row["met"] = row["phrases_a_minute"] >= PHRASES_A_MINUTE and row["peak_bytes"] < BYTES
            rows.append({"choose": choose, **row})
        padded = alone(reference.padded_positions, tokenizer, corpus)
    print(", ".join(f"{what} {value:,}" for what, value in varied.items()))
    print(
        f"{padded:,} positions with padding, {rows[0]['tokens']:,} tokens, {rows[0]['prefixes']:,} different prefixes\n"
    )
    columns = ("choose", "seconds", "phrases_a_minute", "peak_bytes", "rows", "prefixes_run", "run_per_row", "met")
    print(table(rows, columns))
    print(f"\nasked for: {PHRASES_A_MINUTE:,} phrases a minute in less than {BYTES:,} bytes")
    if options.out:
        sizes = {"per_token": options.per_token, **varied, "padded_positions": padded}
        write_json(options.out, {"machine": machine(), "sizes": sizes, "plans": rows})


if __name__ == "__main__":
    main()
