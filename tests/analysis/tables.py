"""Small tables as a study keeps them, of which a test states only what matters to it."""

from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa

from patchlens.analysis.finding import Finding
from patchlens.evaluation.records import CANDIDATES, STATES

PLAIN = (str, int, float, bool, type(None))

_CANDIDATE: dict[str, Any] = dict.fromkeys(CANDIDATES.names) | {
    **{"model": "tiny", "lens": "latent", "image": "a.png", "judged": False, "tile": 0, "row": 0, "column": 0},
    **{"position": 0, "layer": 0, "rank": 1, "word": "dog", "token": "dog"},
}
_STATE: dict[str, Any] = {
    **{"model": "tiny", "image": "a.png", "kind": "visual", "position": 0, "layer": 0},
    **{"norm": 1.0, "drift": 1.0, "largest": 0.5},
}


def candidates(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([{**_CANDIDATE, **row} for row in rows], schema=CANDIDATES)


def states(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([{**_STATE, **row} for row in rows], schema=STATES)


def made_up(
    seed: int = 0,
    *,
    models: Iterable[str] = ("tiny",),
    lenses: Iterable[str] = ("latent", "logit"),
    images: int = 6,
    patches: int = 4,
    layers: Iterable[int] = (0, 2, 5),
    k: int = 5,
    words: Iterable[str] = ("dog", "Dog", "red", "runs", "quickly", "the"),
) -> pa.Table:
    """Readings of a small study, as a lens of that name would give them; LogitLens has logits alone."""
    rng, rows, known = np.random.default_rng(seed), [], list(words)
    for model in models:
        for lens in lenses:
            for image in range(images):
                for layer in layers:
                    for patch in range(patches):
                        cosines = np.sort(rng.uniform(-0.2, 0.9, k))[::-1]
                        for rank, cosine in enumerate(cosines.tolist(), 1):
                            word = known[rng.integers(len(known))]
                            row = {"model": model, "lens": lens, "image": f"{image}.png", "layer": layer, "rank": rank}
                            row |= {"row": patch // 2, "column": patch % 2, "position": 3 + patch, "word": word}
                            if lens == "logit":
                                row |= {"logit": 10 * cosine}
                            else:
                                row |= {"similarity": cosine, "sentence": f"See {word} {rng.integers(3)}."}
                                row |= {"word_start": 4, "context_layer": int(rng.choice([1, 2, 4]))}
                            rows.append(row)
    return candidates(rows)


def records(found: Finding) -> list[dict[str, Any]]:
    """The rows of a finding, after a look at what every finding promises."""
    assert all(type(cell) in PLAIN for row in found.table.rows for cell in row)
    assert all(len(row) == len(found.table.columns) for row in found.table.rows)
    assert len(set(found.table.columns)) == len(found.table.columns)
    return [dict(zip(found.table.columns, row, strict=True)) for row in found.table.rows]


def drawn(found: Finding) -> bytes:
    """The figure as PNG, which fails where it cannot be drawn."""
    assert found.draw is not None
    out = BytesIO()
    found.draw().savefig(out, format="png", dpi=40)
    return out.getvalue()
