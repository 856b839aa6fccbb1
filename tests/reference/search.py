"""Exact search as one would write it on a napkin."""

from collections.abc import Sequence

import numpy as np

Found = list[list[tuple[int, int, float]]]


def nearest(rows: dict[int, np.ndarray], queries: np.ndarray, k: int) -> Found:
    """For each query the k best (layer, row, cosine in steps of 2^-24); ties: lower layer, then lower row."""
    unit = lambda x: x / max(np.linalg.norm(x / (np.abs(x).max() or 1)) * np.abs(x).max(), 5e-324)  # noqa: E731
    scored = [[(layer, row, round(float((unit(x) * unit(q)).sum()) * 2**24) / 2**24)
               for layer in sorted(rows) for row, x in enumerate(rows[layer].astype(np.float64))]
              for q in queries.astype(np.float64)]  # fmt: skip
    return [sorted(found, key=lambda match: (-match[2], match[0], match[1]))[:k] for found in scored]


def chosen(found: Found, k: int, labels: Sequence[str] | None = None, where: Sequence[bool] | None = None) -> Found:
    """Of whole rankings: the first k, of rows that are wanted, each label once."""
    lists = []
    for ranking in found:
        seen: set[str] = set()
        kept = []
        for match in ranking:
            label = str(match[1]) + str(match[0]) if labels is None else labels[match[1]]
            if (where is None or where[match[1]]) and label not in seen:
                seen.add(label)
                kept.append(match)
        lists.append(kept[:k])
    return lists
