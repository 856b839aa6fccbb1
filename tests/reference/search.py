"""Exact search as one would write it on a napkin."""

import numpy as np


def nearest(rows: dict[int, np.ndarray], queries: np.ndarray, k: int) -> list[list[tuple[int, int, float]]]:
    """For each query the k best (layer, row, cosine in steps of 2^-24); ties: lower layer, then lower row."""
    unit = lambda x: x / max(np.linalg.norm(x / (np.abs(x).max() or 1)) * np.abs(x).max(), 5e-324)  # noqa: E731
    scored = [[(layer, row, round(float((unit(x) * unit(q)).sum()) * 2**24) / 2**24)
               for layer in sorted(rows) for row, x in enumerate(rows[layer].astype(np.float64))]
              for q in queries.astype(np.float64)]  # fmt: skip
    return [sorted(found, key=lambda match: (-match[2], match[0], match[1]))[:k] for found in scored]
