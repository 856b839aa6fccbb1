"""Verdicts made in code: tables of any rows, and whole studies that look like real ones."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from patchlens.evaluation.records import VERDICTS_TABLE
from patchlens.evaluation.verdict import UNDECIDED, VERDICTS

DEFAULTS: dict[str, Any] = dict.fromkeys(VERDICTS_TABLE.names) | {
    "judge": "truth",
    "rubric": "patch",
    "model": "tiny",
    "lens": "latent",
    "image": "kitchen.jpg",
    "tile": 0,
    "row": 1,
    "column": 1,
    "position": 5,
    "layer": 0,
    "rank": 1,
    "word": "dog",
}

SHAPES: dict[str, Sequence[float]] = {
    "latent": (0.74, 0.76, 0.77, 0.70),
    "logit": (0.10, 0.12, 0.25, 0.72),
    "embedding": (0.38, 0.36, 0.42, 0.30),
    "random": (0.14, 0.14, 0.14, 0.14),
}
"""Shares of interpretable patches at four depths, spread over the layers."""


def verdicts(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """A table of rows of which only what matters is given; "verdict" may be a reason of the undecided."""
    filled = []
    for number, row in enumerate(rows):
        whole = {**DEFAULTS, "question": f"question {number}"} | dict(row)
        if whole["verdict"] in UNDECIDED:
            whole |= {"verdict": None, "undecided": whole["verdict"]}
        filled.append(whole)
    return pa.Table.from_pylist(filled, schema=VERDICTS_TABLE)


def patch(said: Sequence[str], **where: Any) -> list[dict[str, Any]]:
    """The rows of one patch, its verdicts by rank."""
    return [{**where, "rank": rank, "verdict": verdict} for rank, verdict in enumerate(said, 1)]


def study(
    *,
    models: Sequence[str] = ("Qwen/Qwen2-VL-7B-Instruct",),
    judges: Mapping[str, float] | None = None,
    lenses: Mapping[str, Sequence[float]] | None = None,
    layers: Sequence[int] = (0, 1, 2, 4, 8, 16, 24, 26, 27),
    images: int = 100,
    baselines: bool = True,
    undecided: float = 0.02,
    seed: int = 0,
) -> pa.Table:
    """Verdicts of a whole study: patches differ in how easy they are, lenses in what they see at which depth.

    Args:
        models: Each a little harder than the one before.
        judges: How often each answers as the first one would; the first is 1.
        lenses: Shares at evenly spread depths.
        layers: Ascending.
        images: One patch each.
        baselines: With random rows and another image.
        undecided: Share of questions without an answer.
        seed: Another seed makes another study.
    """
    rng = np.random.default_rng(seed)
    lenses = {name: SHAPES[name] for name in ("latent", "logit", "embedding")} if lenses is None else lenses
    judges = {"truth": 1.0} if judges is None else judges
    lines: list[tuple[str, str | None, Sequence[float]]] = [(lens, None, shape) for lens, shape in lenses.items()]
    if baselines:
        lines += [(lens, "another image", [0.1 + 0.15 * share for share in shape]) for lens, shape in lenses.items()]
        lines.append(("random", "random rows", SHAPES["random"]))
    columns: dict[str, list[Any]] = {name: [] for name in VERDICTS_TABLE.names}
    ease = rng.normal(0, 0.25, images)
    for m, model in enumerate(models):
        for lens, baseline, shape in lines:
            depths = np.linspace(0, 1, len(shape))
            chances = np.interp(np.array(layers) / max(layers), depths, shape) - 0.05 * m
            noise = rng.normal(0, 0.3, images)  # of one patch at all layers: neighboring layers say much the same
            for layer, chance in zip(layers, chances, strict=True):
                fits = rng.random(images) * 0.4 + 0.3 + ease + noise < chance
                truth = np.where(
                    fits[:, None] & (rng.random((images, 5)) < 0.55),
                    rng.choice(3, (images, 5), p=[0.65, 0.19, 0.16]),
                    3,
                )
                for judge, faith in judges.items():
                    other = rng.choice(4, (images, 5), p=[0.3, 0.1, 0.1, 0.5])
                    said = np.where(rng.random((images, 5)) < faith, truth, other)
                    why = np.where(rng.random(images) < undecided, rng.choice(3, images, p=[0.6, 0.2, 0.2]), -1)
                    for name, value in {"judge": judge, "model": model, "lens": lens, "baseline": baseline}.items():
                        columns[name] += [value] * images * 5
                    columns["layer"] += [layer] * images * 5
                    columns["image"] += [f"{image:04d}.jpg" for image in range(images) for _ in range(5)]
                    columns["rank"] += [1, 2, 3, 4, 5] * images
                    columns["word"] += [f"word {rank}" for rank in range(5)] * images
                    columns["question"] += [
                        f"{model} {lens} {baseline} {layer} {image}" for image in range(images) for _ in range(5)
                    ]
                    answered = np.repeat(why < 0, 5)
                    columns["verdict"] += [
                        VERDICTS[v] if a else None for v, a in zip(said.ravel(), answered, strict=True)
                    ]
                    columns["undecided"] += [None if w < 0 else UNDECIDED[w] for w in np.repeat(why, 5)]
    rows = len(columns["rank"])
    filled = {name: values if values else [DEFAULTS[name]] * rows for name, values in columns.items()}
    return pa.table({field.name: pa.array(filled[field.name], field.type) for field in VERDICTS_TABLE})
