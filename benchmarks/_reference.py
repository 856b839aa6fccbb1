"""The reference package: installed into a folder of its own, never imported by the project, run beside patchlens."""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import AutoTokenizer

from _measure import peak_memory

PACKAGE, VERSION = "latentlens", "0.1.0"


@dataclass(frozen=True)
class Installed:
    """The package in its folder."""

    folder: Path

    def corpus(self) -> list[str]:
        """The sentences that come with it, in its order."""
        text = (self.folder / PACKAGE / "data" / "concepts.txt").read_text(encoding="utf-8")
        return [line.strip() for line in text.split("\n") if line.strip()]


def install(folder: Path) -> Installed:
    """Install the package, without what it depends on: that is here already."""
    if not (folder / f"{PACKAGE}-{VERSION}.dist-info").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", "--target", str(folder), f"{PACKAGE}=={VERSION}"], check=True)
    return Installed(folder)


def build(installed: Installed, model_folder: Path, sentences: Path, out: Path, per_token: int) -> dict[str, Any]:
    """Build an index as a user of the package would, with its defaults; for a process of its own.

    What is written here for the comparison is not timed.

    Args:
        installed: The package.
        model_folder: The model, with a tokenizer that pads on the right.
        sentences: The corpus.
        out: Where the rows go: rows.parquet, and layer_N.npy in float32.
        per_token: Contexts kept per token string (the package's default: 50).
    """
    sys.path.insert(0, str(installed.folder))
    from latentlens.extract import build_index

    started = time.perf_counter()
    index = build_index(
        str(model_folder), sentences, max_contexts_per_token=per_token, device="cpu", show_progress=False
    )
    seconds, memory = time.perf_counter() - started, peak_memory()
    out.mkdir(parents=True)
    stored = index._layers_data  # no public name gives the vectors
    for layer, data in stored.items():
        np.save(out / f"layer_{layer}.npy", data["embeddings"].numpy())
    rows = next(iter(stored.values()))["metadata"]
    columns = {name: [row[name] for row in rows] for name in ("token_id", "caption", "position")}
    pq.write_table(pa.table(columns), out / "rows.parquet")
    return {
        "seconds": seconds,
        "peak_bytes": memory,
        "rows": len(rows),
        "layers": list(stored),
        "positions": padded_positions(model_folder, sentences),
    }


def rows(out: Path) -> dict[tuple[int, str, int], int]:
    """The contexts of an index that `build` wrote: (token id, sentence, position), each with its row."""
    table = pq.read_table(out / "rows.parquet").to_pydict()
    found = zip(table["token_id"], table["caption"], table["position"], strict=True)
    return {context: row for row, context in enumerate(found)}


def vectors(out: Path, layer: int) -> npt.NDArray[np.float32]:
    """Its vectors at a layer, mapped from disk."""
    return np.load(out / f"layer_{layer}.npy", mmap_mode="c")  # torch wants memory that may be written to


def padded_positions(model_folder: Path, sentences: Path, batch: int = 32) -> int:
    """Token positions that the package runs: each batch is as long as its longest sentence."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    lines = sentences.read_text(encoding="utf-8").rstrip("\n").split("\n")
    lengths = [len(ids) for ids in tokenizer(lines)["input_ids"]]
    batches = [lengths[start : start + batch] for start in range(0, len(lengths), batch)]
    return sum(len(group) * max(group) for group in batches)
