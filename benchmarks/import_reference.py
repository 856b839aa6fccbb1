"""An index of the reference package, imported as a bank: the same neighbours, with the same similarities?

    python benchmarks/import_reference.py [--out import_reference.json]     some 3 minutes
    python benchmarks/import_reference.py --sentences 200 --queries 50      a quick look

The reference package is installed into runs/reference. It builds and saves an index (float16) of consecutive sentences
of its own corpus with a random Llama (8 blocks, width 512, vocabulary 32,000), once with a tokenizer that pads on the
right and once on the left, and answers queries: hidden states of other sentences at several layers. The imported banks
answer the same queries.

    same           share of the queries' neighbours (layer and row) that are the reference's, at the same rank
    swapped        neighbours at another rank, and how far the similarities of the two are apart
    difference     of the similarities, the largest
    exact, found   tokens that were placed by the tokenizer, or looked for in their sentence, without the model
    words          of those looked for, the share that got the word that the tokenizer gives
"""

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import _reference as reference
from _measure import alone, machine, peak_memory, table
from _workload import block, make_model, write
from patchlens.bank.bank import Bank, open_bank
from patchlens.bank.importing import import_bank
from patchlens.capture.capture import capture
from patchlens.models.loading import load_model
from patchlens.search.exact import ExactIndex
from patchlens.storage import write_json

K = 5
Found = list[list[tuple[int, int, float]]]
Row = dict[str, Any]


def index(installed: reference.Installed, model: Path, side: str, sentences: Path, out: Path) -> Row:
    """Build and save an index, as a user of the package would; for a process of its own."""
    sys.path.insert(0, str(installed.folder))
    from latentlens.extract import build_index
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, padding_side=side)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    made = build_index(
        "random", sentences, device="cpu", show_progress=False, model=network.eval(), tokenizer=tokenizer
    )
    made.save(out)
    return {"rows": len(made) // len(made.available_layers), "layers": made.available_layers}


def answers(installed: reference.Installed, folder: Path, queries: Tensor) -> Found:
    """What the package finds: (layer, row, similarity), best first; for a process of its own."""
    sys.path.insert(0, str(installed.folder))
    from latentlens.index import ContextualIndex

    opened = ContextualIndex.from_directory(folder)
    metadata = next(iter(opened._layers_data.values()))["metadata"]
    kept = [said for said in metadata if said["token_str"] not in ("<pad>", "<s>")]  # an import leaves padding out
    rows = {(said["caption"], said["position"], said["token_id"]): row for row, said in enumerate(kept)}

    def found(each: Any) -> tuple[int, int, float]:
        row = rows.get((each.caption, each.position, each.token_id), -1)
        return each.contextual_layer, row, each.similarity

    return [list(map(found, neighbours)) for neighbours in opened.search(queries, top_k=K)]


def ours(folder: Path, model: Path | None, dtype: str, out: Path) -> Row:
    """Import an index; for a process of its own."""
    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        bank = import_bank(folder, out, model=model, dtype=dtype, overwrite=True)
    placed: Any = bank.provenance.settings["imported"]
    return {
        "seconds": time.perf_counter() - started,
        "peak_bytes": peak_memory(),
        "exact": placed["exact"],
        "found": placed["found"],
        "not_found": placed["not_found"],
        "warnings": [str(warning.message) for warning in told],
    }


def compare(bank: Bank, queries: Tensor, expected: Found) -> Row:
    """How a bank's answers differ from the package's."""
    matches = ExactIndex(bank).search(queries, K)
    same, swapped, difference = 0, [0.0], 0.0
    for number, theirs in enumerate(expected):
        mine = zip(matches.layers[number].tolist(), matches.rows[number].tolist(), strict=True)
        for place, found in enumerate(mine):
            layer, row, similarity = theirs[place]
            apart = abs(float(matches.similarities[number, place]) - similarity)
            difference = max(difference, apart)
            if found == (layer, row):
                same += 1
            else:
                swapped.append(apart)
    return {
        "same": same / (K * len(expected)),
        "swapped": len(swapped) - 1,
        "swapped_apart": max(swapped),
        "difference": difference,
    }


def measure(options: argparse.Namespace, work: Path) -> list[Row]:
    """Everything, once with each tokenizer."""
    installed = reference.install(options.reference)
    lines = installed.corpus()
    model = make_model(work / "model", lines)
    sentences = write(work / "sentences.txt", block(lines, options.sentences))
    queries = hidden_states(model, lines[-options.queries :])
    rows = []
    for side in ("right", "left"):
        folder = work / f"index-{side}"
        built = alone(index, installed, model, side, sentences, folder)
        expected = alone(answers, installed, folder, queries)
        words: Sequence[str] | None = None
        for dtype, known in (("float32", model), ("float16", model), ("float16", None), ("int8", None)):
            done = alone(ours, folder, known, dtype, work / "bank")
            bank = open_bank(work / "bank")
            said = bank.contexts["word"].to_pylist()
            words = words or said
            agree = sum(one == other for one, other in zip(said, words, strict=True)) / len(said)
            about = {"padding": side, "dtype": dtype, "model": known is not None, "rows": built["rows"]}
            rows.append({**about, **compare(bank, queries, expected), **done, "words": agree})
    return rows


def hidden_states(model: Path, sentences: Sequence[str]) -> Tensor:
    """States of the last tokens of sentences, at all layers in turn."""
    loaded = load_model(model)
    states = []
    for number, sentence in enumerate(sentences):
        found = capture(loaded, prompt=sentence, positions="all", layers=number % (loaded.n_layers + 1))
        states.append(found.vectors[0, -1])
    return torch.stack(states)


def main() -> None:
    """Read the options, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sentences", type=int, default=2000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--reference", type=Path, default=Path("runs/reference"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.reference.parent) as work:
        rows = measure(options, Path(work))
    columns = ("padding", "dtype", "model", "rows", "same", "swapped", "swapped_apart", "difference")
    print(table(rows, (*columns, "exact", "found", "not_found", "words", "seconds", "peak_bytes")))
    for side in ("right", "left"):
        print(f"\nTold of the index whose tokenizer pads on the {side}:")
        told = dict.fromkeys(said for row in rows if row["padding"] == side for said in row["warnings"])
        print("\n".join(f"- {said}" for said in told) or "- nothing")
    if options.out:
        write_json(options.out, {"machine": machine(), "rows": rows})
    if any(max(row["difference"], row["swapped_apart"]) > 1e-3 for row in rows if row["dtype"] != "int8"):
        sys.exit("An imported bank answers otherwise than the reference.")


if __name__ == "__main__":
    main()
