"""Search beside its peers: the same neighbours, time, memory, and the share of what the machine can multiply.

    python benchmarks/search.py [--out search.json]               some 15 minutes, 12 GB of memory, 8 GB of disk
    python benchmarks/search.py --rows 8000 --queries 256         a quick look

Two sets of rows (60,000 at each of 4 layers, width 2,048) and of queries: hidden states of a random Llama of that width
that reads the reference package's corpus, and made-up rows near a subspace. They are saved once as an index of the
reference package (latentlens 0.1.0, installed into runs/reference) and as banks in three types, from the same float32
rows. Each peer opens them and searches in a process of its own:

    reference     latentlens 0.1.0: float32 in memory, one product a layer, then a loop
    faiss         IndexFlatIP over all layers, float32 in memory
    torch         one product and one topk a layer, float32 in memory
    patchlens     ExactIndex on a bank on disk, by stored type

    first, best   seconds of the first search, which may have more to do, and of the fastest of those after it
    times         the reference's best over ours
    same          share of the queries whose neighbours are the reference's, in its order, up to what float32 can tell
    of GEMM       operations of the product over what the fastest bfloat16 product of this machine does in that time
    peak          most memory held at once, over what the process held before it opened anything
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import _reference as reference
from _banks import write_bank
from _measure import alone, gemm_rates, machine, peak_memory, resident_memory, table
from _workload import block, make_tokenizer
from patchlens.bank.bank import open_bank
from patchlens.models.hooks import observe
from patchlens.models.loading import model_of
from patchlens.search.exact import ExactIndex
from patchlens.storage import write_json

LAYERS = (1, 2, 3, 4)
STORED = ("float16", "bfloat16", "int8")
K = 5
COUNTS = (1, 16, 256)
REPEATS = 3
MANY = 1000  # queries, of which a search is repeated once only
TIE = 2e-6  # similarities nearer together than this, float32 may put in any order

Row = dict[str, Any]


def low_rank(rows: int, d_model: int, queries: int, seed: int) -> tuple[dict[int, Tensor], Tensor]:
    """Rows with a strong mean, 64 directions of falling strength and noise, another mean at each layer."""
    generator = torch.Generator().manual_seed(seed)
    strengths = torch.arange(1, 65).float().rsqrt()
    basis = torch.linalg.qr(torch.randn(d_model, 64, generator=generator)).Q.T

    def drawn(count: int, mean: Tensor) -> Tensor:
        inner = torch.randn(count, 64, generator=generator) * strengths
        noise = torch.randn(count, d_model, generator=generator) * (0.8 / d_model**0.5)
        return torch.nn.functional.normalize(mean + inner @ basis + noise, dim=1)

    means = [torch.randn(d_model, generator=generator) / d_model**0.5 for _ in LAYERS]
    layers = {layer: drawn(rows, mean) for layer, mean in zip(LAYERS, means, strict=True)}
    return layers, torch.cat([drawn(-(-queries // len(LAYERS)), mean) for mean in means])[:queries]


@torch.inference_mode()
def hidden_states(
    lines: list[str], rows: int, d_model: int, queries: int, work: Path
) -> tuple[dict[int, Tensor], Tensor]:
    """States of a random Llama at tokens of consecutive sentences, each prefix once, and of others for the queries."""
    tokenizer = AutoTokenizer.from_pretrained(make_tokenizer(work / "tokenizer", lines))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=d_model,
        intermediate_size=int(2.75 * d_model) // 16 * 16,
        num_hidden_layers=max(LAYERS),
        num_attention_heads=max(1, d_model // 64),
        initializer_range=0.03,
        bos_token_id=1,
        pad_token_id=0,
    )
    model = model_of(LlamaForCausalLM(config).bfloat16().eval(), tokenizer)
    kept: dict[int, list[Tensor]] = {layer: [] for layer in LAYERS}
    seen: set[tuple[int, ...]] = set()
    wanted = rows + queries
    for line in block(lines, len(lines)):
        sentence = tokenizer(line)["input_ids"]
        new = [at for at in range(1, len(sentence)) if tuple(sentence[: at + 1]) not in seen]
        seen |= {tuple(sentence[: at + 1]) for at in new}
        ids = torch.tensor([sentence])
        with observe(
            model.blocks, LAYERS, lambda layer, state, new=new: kept[layer].append(state[0, new]), then_stop=True
        ):
            model.decoder(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        if len(seen) >= wanted:
            break
    states = {
        layer: torch.nn.functional.normalize(torch.cat(parts)[:wanted].float(), dim=1) for layer, parts in kept.items()
    }
    asked = torch.stack([states[LAYERS[number % len(LAYERS)]][rows + number] for number in range(queries)])
    return {layer: state[:rows].clone() for layer, state in states.items()}, asked


def save_reference(installed: reference.Installed, folder: Path, layers: dict[int, Tensor]) -> None:
    """As an index of the reference package; for a process of its own."""
    sys.path.insert(0, str(installed.folder))
    from latentlens.index import ContextualIndex

    rows = len(next(iter(layers.values())))
    said = [
        {"token_str": f"w{row}", "token_id": row, "caption": f"w{row} stands here", "position": 1}
        for row in range(rows)
    ]
    ContextualIndex({layer: {"embeddings": rows, "metadata": said} for layer, rows in layers.items()}).save(folder)


def timed(search: Callable[[Tensor], Any], queries: Tensor, counts: tuple[int, ...]) -> tuple[dict[str, Row], Any]:
    """First and best seconds for each number of queries, and what the last search found."""
    times, found = {}, None
    for count in counts:
        seconds = []
        for _ in range(1 + (REPEATS if count < MANY else 1)):
            started = time.perf_counter()
            found = search(queries[:count])
            seconds.append(time.perf_counter() - started)
        times[str(count)] = {"first": seconds[0], "best": min(seconds[1:])}
    return times, found


def theirs(installed: reference.Installed, folder: Path, queries: Tensor, counts: tuple[int, ...]) -> Row:
    """The reference package; for a process of its own."""
    sys.path.insert(0, str(installed.folder))
    from latentlens.index import ContextualIndex

    before, started = resident_memory(), time.perf_counter()
    index = ContextualIndex.from_directory(folder)
    opened, memory = time.perf_counter() - started, peak_memory() - before
    times, found = timed(lambda some: index.search(some, top_k=K), queries, counts)
    neighbours = [[(each.contextual_layer, each.token_id, each.similarity) for each in some] for some in found]
    return {"open_seconds": opened, "open_bytes": memory, "peak_bytes": peak_memory() - before, "times": times} | {
        "found": neighbours
    }


def in_memory(kind: str, folder: Path, queries: Tensor, counts: tuple[int, ...]) -> Row:
    """Faiss or torch on the rows of a float16 bank, unpacked to float32; for a process of its own."""
    bank = open_bank(folder)
    before, started = resident_memory(), time.perf_counter()
    rows = {layer: bank.vectors(layer, unit=True) for layer in bank.layers}
    if kind == "faiss":
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())
        index = faiss.IndexFlatIP(bank.d_model)
        for layer in bank.layers:
            index.add(rows.pop(layer).numpy())

        def search(some: Tensor) -> Any:
            return index.search(torch.nn.functional.normalize(some, dim=1).numpy(), K)

    else:

        def search(some: Tensor) -> Any:
            units = torch.nn.functional.normalize(some, dim=1)
            best = [(units @ rows[layer].T).topk(K) for layer in bank.layers]
            values, places = torch.cat([each.values for each in best], dim=1).topk(K)
            return values, torch.cat([each.indices for each in best], dim=1).gather(1, places)

    opened = time.perf_counter() - started
    times, _ = timed(search, queries, counts)
    return {"open_seconds": opened, "peak_bytes": peak_memory() - before, "times": times}


def ours(folder: Path, queries: Tensor, counts: tuple[int, ...], layers: tuple[int, ...] | None = None) -> Row:
    """A bank on disk; for a process of its own."""
    before, started = resident_memory(), time.perf_counter()
    index = ExactIndex(open_bank(folder), layers)
    opened, memory = time.perf_counter() - started, peak_memory() - before
    times, found = timed(lambda some: index.search(some, K), queries, counts)
    parts = (found.layers.tolist(), found.rows.tolist(), found.similarities.tolist())
    return {
        "open_seconds": opened,
        "open_bytes": memory,
        "peak_bytes": peak_memory() - before,
        "cost": repr(found.cost),
        "refined": found.cost.refined,
        "rescored": found.cost.rescored / len(found),
        "times": times,
        "found": [list(zip(*each, strict=True)) for each in zip(*parts, strict=True)],
    }


def same(one: list[list[tuple[int, int, float]]], other: list[list[tuple[int, int, float]]]) -> float:
    """Share of queries with the same neighbours; ones as similar, up to float32, may change places."""
    return float(np.mean([_same(mine, theirs) for mine, theirs in zip(one, other, strict=True)]))


def _same(mine: list[tuple[int, int, float]], theirs: list[tuple[int, int, float]]) -> bool:
    apart = all(abs(a[2] - b[2]) < TIE for a, b in zip(mine, theirs, strict=True))
    last = theirs[-1][2] + TIE  # of a tie for the last place either may be found
    return apart and {a[:2] for a in mine if a[2] > last} == {b[:2] for b in theirs if b[2] > last}


def measure(options: argparse.Namespace, work: Path, found: Row) -> None:
    """Everything, put down as it is found."""
    installed = reference.install(options.reference)
    rates = gemm_rates(options.d_model, options.queries, rows=4096)
    found["gemm"] = {dtype: max(by.values()) for dtype, by in rates.items()}
    makers = {
        "states": lambda: hidden_states(installed.corpus(), options.rows, options.d_model, options.many, work),
        "low rank": lambda: low_rank(options.rows, options.d_model, options.many, seed=0),
    }
    counts = (*COUNTS, options.queries, options.many)
    found["rows"], found["growth"], found["two_gb"] = [], [], []
    for name, make in makers.items():
        print(name, file=sys.stderr)
        layers, queries = make()
        folders = {dtype: write_bank(work / f"bank-{dtype}", layers, dtype) for dtype in STORED}
        alone(save_reference, installed, work / "reference", layers)
        two = write_bank(work / "bank-float32", layers, "float32") if name == "states" else None
        del layers
        runs = {"reference": alone(theirs, installed, work / "reference", queries, counts)}
        for kind in ("faiss", "torch"):
            runs[kind] = alone(in_memory, kind, folders["float16"], queries, counts)
        for dtype, folder in folders.items():
            runs[f"patchlens, {dtype}"] = alone(ours, folder, queries, counts)
        expected = runs["reference"]["found"]
        for peer, run in runs.items():
            about = {"states": name, "peer": peer, **{key: run[key] for key in run if key not in ("times", "found")}}
            if peer == "patchlens, float16":
                about["same"] = same(run["found"], expected)
            for count, seconds in run["times"].items():
                products = 2.0 * int(count) * options.rows * len(LAYERS) * options.d_model
                found["rows"].append(
                    {
                        **about,
                        "queries": int(count),
                        **seconds,
                        "times": runs["reference"]["times"][count]["best"] / seconds["best"],
                        "of_gemm": products / seconds["best"] / found["gemm"]["bfloat16"],
                    }
                )
            print(f"  {peer}", file=sys.stderr)
        if two is not None:
            for number in range(1, len(LAYERS) + 1):
                grown = alone(ours, folders["float16"], queries, (options.queries,), LAYERS[:number])
                found["growth"].append(
                    {"rows": number * options.rows, "seconds": grown["times"][str(options.queries)]["best"]}
                )
            for peer, run in (
                ("reference", alone(theirs, installed, work / "reference", queries, (options.queries,))),
                *(("patchlens", alone(ours, two, queries, (options.queries,))) for _ in range(3)),
            ):
                size = sum(
                    path.stat().st_size for path in (two if peer == "patchlens" else work / "reference").rglob("*.*")
                )
                found["two_gb"].append(
                    {"peer": peer, "bytes": size, **{key: run[key] for key in run if key != "found"}}
                )
            shutil.rmtree(two)
        for folder in (*folders.values(), work / "reference"):
            shutil.rmtree(folder)


def say(found: Row) -> None:
    """Print what was found."""
    print({name: f"{rate / 1e9:.0f} GFLOP/s" for name, rate in found["gemm"].items()})
    columns = ("states", "peer", "queries", "first", "best", "times", "of_gemm", "same", "refined", "rescored")
    print(table(found["rows"], columns))
    print(table(found["growth"], ("rows", "seconds")))
    print(table(found["two_gb"], ("peer", "bytes", "open_seconds", "open_bytes", "peak_bytes")))


def main() -> None:
    """Read the options, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=60_000, help="at each of 4 layers")
    parser.add_argument("--d-model", type=int, default=2048)
    parser.add_argument("--queries", type=int, default=576)
    parser.add_argument("--many", type=int, default=4096)
    parser.add_argument("--reference", type=Path, default=Path("runs/reference"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.reference.mkdir(parents=True, exist_ok=True)
    found: Row = {"machine": machine()}
    try:
        with tempfile.TemporaryDirectory(dir=options.reference.parent) as work:
            measure(options, Path(work), found)
    finally:
        if options.out:
            write_json(options.out, found)
    say(found)
    if any(row.get("same", 1) < 1 for row in found["rows"]):
        sys.exit("Neighbours differ from the reference's.")


if __name__ == "__main__":
    main()
