"""Exact inner-product search over an array, and the exact scores that order every result.

Shapes: B queries, S slots, D embedding dimensions, C candidates, K results.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

_BLOCK = 64
"""Queries scored at once: bounds the scores held to 64 x S."""

_CHUNK_NUMBERS = 98_304
"""Numbers gathered at once for exact scores: they stay in the second-level cache, which halves the time."""

_ROUNDING = 4e-6
"""A matrix product's float32 error, as a share of |q| |x|: what lies this near the k-th score may belong before it."""


def scan(queries: FloatArray, vectors: FloatArray, allowed: BoolArray | None, k: int, max_norm: float) -> list[IntArray]:
    """Returns, for each query, positions that include the k best of `vectors`, in no order.

    A few more than k come back where scores are too near each other for a matrix product to tell; `ranked` decides.

    Args:
        queries: (B, D).
        vectors: (S, D).
        allowed: (S,), or None for all.
        k: At least 1.
        max_norm: No vector is longer.
    """
    if not len(vectors):
        return [np.empty(0, np.int64)] * len(queries)
    found: list[IntArray] = []
    for first in range(0, len(queries), _BLOCK):
        block = queries[first : first + _BLOCK]
        scores = block @ vectors.T  # (B, S)
        if allowed is not None:
            scores[:, ~allowed] = -np.inf
        slack = _ROUNDING * max_norm * np.sqrt(np.einsum("bd,bd->b", block, block))  # (B,)
        found += [_best(row, k, float(room)) for row, room in zip(scores, slack, strict=True)]
    return found


def _best(scores: FloatArray, k: int, slack: float) -> IntArray:
    if len(scores) <= k:
        return np.flatnonzero(scores > -np.inf)
    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    return np.flatnonzero((scores >= kth - slack) & (scores > -np.inf))


def exact_scores(query: FloatArray, vectors: FloatArray, slots: IntArray) -> FloatArray:
    """Returns the inner products of one query with chosen slots, (C,).

    Equal vectors get equal scores wherever they stand and whatever else is asked for, which a matrix product does not promise.
    """
    if not query.any():
        return np.zeros(len(slots), np.float32)
    chunk = max(1, _CHUNK_NUMBERS // len(query))
    parts = [np.einsum("cd,d->c", vectors[slots[i : i + chunk]], query) for i in range(0, len(slots), chunk)]
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def ranked(slots: IntArray, scores: FloatArray, k: int, name: Callable[[int], str]) -> tuple[IntArray, FloatArray]:
    """Returns the k best slots and their scores, best first, equal scores by name.

    Args:
        slots: (C,), in any order.
        scores: (C,).
        k: Fewer come back if C < k.
        name: What orders equal scores: the item id of a slot.
    """
    k = min(k, len(slots))
    if k == 0:
        return slots[:0], scores[:0]
    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    keep = np.flatnonzero(scores >= kth)
    keep = keep[np.argsort(-scores[keep], kind="stable")]
    slots, scores = slots[keep], scores[keep]
    if (scores[1:] == scores[:-1]).any():
        order = sorted(range(len(slots)), key=lambda i: (-scores[i], name(int(slots[i]))))
        slots, scores = slots[order], scores[order]
    return slots[:k], scores[:k]
