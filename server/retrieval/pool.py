"""How many candidates each source names, and how they are picked: the server and the evaluation ask here.

Shapes: N items, R rows that a source names, K results.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

IntArray: TypeAlias = NDArray[np.int64]
BoolArray: TypeAlias = NDArray[np.bool_]
FloatArray: TypeAlias = NDArray[np.float32]

DENSE = 300
SPARSE = 300
REGRESSED = 200
POPULAR = 200

_COSINE_MIX = np.float32(0.5)


def sparse_strength(transitions: FloatArray, cosine: FloatArray) -> FloatArray:
    """Returns what the item-to-item source picks by, (R,)."""
    return np.asarray(transitions + _COSINE_MIX * cosine, np.float32)


def strongest(rows: IntArray, values: FloatArray, allowed: BoolArray, k: int) -> IntArray:
    """Returns the k allowed rows with the largest positive values, in no order.

    Args:
        rows: (R,), ascending; which of equal values are kept depends on it.
        values: (R,).
        allowed: (N,).
        k: At least 0.
    """
    places: IntArray = np.flatnonzero(values > 0)
    places = places[allowed[rows[places]]]
    if len(places) > k:
        places = places[np.argpartition(values[places], len(places) - k)[len(places) - k :]]
    named: IntArray = rows[places]
    return named


def first(order: IntArray, allowed: BoolArray, k: int) -> IntArray:
    """Returns the first k allowed rows of an order."""
    start, found = 0, order[:0]
    step = 4 * k
    while len(found) < k and start < len(order):
        part = order[start : start + step]
        found = np.concatenate([found, part[allowed[part]]])
        start, step = start + step, 4 * step
    return found[:k]
