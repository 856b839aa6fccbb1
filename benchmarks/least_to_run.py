"""How few prefixes can be run at all if every token gets as many contexts as it may have.

    python benchmarks/least_to_run.py [--per-token 20]     half a minute

Of a token with no more contexts than the cap, all must be kept, whatever the rule; what leads to those alone is a lower
bound. Counted on the reference package's corpus (see _reference.py) with a tokenizer made of it.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

import _reference as reference
from _workload import make_tokenizer
from patchlens.bank.plan import Selection, make_plan
from patchlens.bank.trie import Mask, Trie, build_trie
from patchlens.inputs.corpus import read_corpus


def closure(trie: Trie, wanted: Mask) -> int:
    """Prefixes that must be run for some nodes."""
    needed, parent = wanted.copy(), trie.parent
    for depth in range(int(trie.depth.max()), 0, -1):
        needed[parent[needed & (trie.depth == depth)]] = True
    return int(needed.sum())


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-token", type=int, default=20)
    parser.add_argument("--reference", type=Path, default=Path("runs/reference"))
    options = parser.parse_args()
    lines = reference.install(options.reference).corpus()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = AutoTokenizer.from_pretrained(make_tokenizer(Path(folder), lines))
    ids = tokenizer(lines)["input_ids"]
    starts = np.concatenate([[0], np.cumsum([len(sentence) for sentence in ids])])
    flat = np.fromiter((token for sentence in ids for token in sentence), np.int32, starts[-1])
    eligible = np.ones(len(flat), dtype=bool)
    eligible[starts[:-1]] = False  # <s>
    trie = build_trie(flat, eligible, starts, seed=0)
    may = trie.owner >= 0
    available = np.bincount(trie.token[may])
    rows = int(np.minimum(available, options.per_token).sum())
    least = closure(trie, may & (available[trie.token] <= options.per_token))
    print(f"{len(lines):,} sentences, {len(trie.first):,} prefixes; at most {options.per_token} contexts a token")
    print(f"every cap filled: {rows:,} contexts, at least {least:,} prefixes run, {least / rows:.2f} for each")
    for choose in ("first", "reservoir", "spread"):
        plan = make_plan(tokenizer, read_corpus(lines), Selection(options.per_token, choose))
        run = plan.counts["prefixes_run"]
        print(f"{choose}: {len(plan):,} contexts, {run:,} prefixes run, {run / len(plan):.2f} for each")


if __name__ == "__main__":
    main()
