"""latentlens 0.1.0 in short: what it builds, what it saves, what it finds."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patchlens.models.model import Model
from reference.contexts import states

Cache = dict[str, Any]


def built(
    model: Model, sentences: Sequence[str], layers: Sequence[int], *, padding_side: str = "right", batch: int = 4
) -> dict[int, Cache]:
    """What latentlens 0.1.0 builds: positions from 2, counted in the padded sequence as if it were padded on the right.

    Its states are those of the sentences alone: padding changes none.
    """
    pad = model.tokenizer.pad_token_id
    seen, metadata, rows = set(), [], {layer: [] for layer in layers}
    for start in range(0, len(sentences), batch):
        some = sentences[start : start + batch]
        ids = model.tokenizer(list(some), padding=False)["input_ids"]
        longest = max(map(len, ids))
        for sentence, own in zip(some, ids, strict=True):
            missing = longest - len(own)
            padded = [pad] * missing + own if padding_side == "left" else own + [pad] * missing
            for position in range(2, len(own)):
                if (prefix := tuple(padded[: position + 1])) in seen:
                    continue
                seen.add(prefix)
                token = padded[position]
                said = {"token_str": model.tokenizer.decode([token]), "token_id": token}
                metadata.append({**said, "caption": sentence, "position": position})
                at = position - (missing if padding_side == "left" else 0)
                for layer in layers:
                    # What a model gives at padding is anything.
                    rows[layer].append(states(model, sentence, layer)[at] if at >= 0 else torch.ones(model.d_model))
    return {layer: {"embeddings": torch.stack(rows[layer]), "metadata": list(metadata)} for layer in layers}


def saved(folder: Path, caches: dict[int, Cache], dtype: torch.dtype = torch.float16, unit: bool = True) -> Path:
    """As `ContextualIndex.save` does."""
    folder.mkdir(exist_ok=True)
    for layer, cache in caches.items():
        embeddings = torch.nn.functional.normalize(cache["embeddings"], dim=-1) if unit else cache["embeddings"]
        (folder / f"layer_{layer}").mkdir(exist_ok=True)
        torch.save({**cache, "embeddings": embeddings.to(dtype)}, folder / f"layer_{layer}" / "embeddings_cache.pt")
    about = {"layers": sorted(caches), "hidden_dim": embeddings.shape[1]}
    (folder / "metadata.json").write_text(json.dumps(about))
    return folder


def searched(cache: dict[int, Cache], queries: Tensor, k: int) -> list[list[tuple[int, int, float]]]:
    """As `ContextualIndex.search` does: (layer, row, similarity), all layers in one ranking."""
    queries = torch.nn.functional.normalize(queries.float(), dim=-1)
    found = []
    for query in queries:
        scored = [
            (layer, row, float(similarity))
            for layer, said in cache.items()
            for row, similarity in enumerate(torch.nn.functional.normalize(said["embeddings"].float(), dim=-1) @ query)
        ]
        found.append(sorted(scored, key=lambda each: -each[2])[:k])
    return found


def small(rows: int = 3, d_model: int = 4) -> Cache:
    """A few rows of nothing in particular."""
    torch.manual_seed(0)
    said = {"token_str": " cat", "token_id": 5, "caption": "the cat"}
    return {"embeddings": torch.randn(rows, d_model), "metadata": [{**said, "position": n} for n in range(rows)]}
