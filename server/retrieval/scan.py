"""Exact inner-product search over all vectors, and the order of results.

Shapes: B queries, S slots, D embedding dimensions, C candidates, K results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from server.retrieval.vector_rows import FloatArray, IntArray, VectorRows

BoolArray = NDArray[np.bool_]

_BLOCK = 64
"""Queries scored at once: bounds the scores held to 64 x S."""

_UNPACKED_AT_ONCE = 1024
"""Packed slots turned into floats at once."""

_MATRIX_FROM = 8
"""Queries from which one matrix product costs less than a product of each: BLAS first copies the vectors into its own order."""

_ROUNDING = 4e-6
"""A matrix product's float32 error, as a share of |q| |x|: what lies this near the k-th score may belong before it."""


def scan(
    queries: FloatArray, rows: VectorRows, first: int, last: int, allowed: Sequence[BoolArray | None], ks: Sequence[int], max_norm: float
) -> list[IntArray]:
    """Returns, for each query, which of slots [first, last) include its k best, in no order.

    A few more than k come back where scores are too near each other for a matrix product to tell; `ranked` decides.

    Args:
        queries: (B, D).
        rows: The vectors.
        first: Of the slots searched.
        last: Of the slots searched, exclusive.
        allowed: For each query (last - first,), or None for all.
        ks: For each query, at least 1.
        max_norm: No vector is longer.
    """
    if first >= last:
        return [np.empty(0, np.int64)] * len(queries)
    found: list[IntArray] = []
    for start in range(0, len(queries), _BLOCK):
        block = queries[start : start + _BLOCK]
        scores = _scores(block, rows, first, last)
        slack = _ROUNDING * max_norm * np.sqrt(np.einsum("bd,bd->b", block, block))  # (B,)
        part = slice(start, start + _BLOCK)
        for row, room, mask, k in zip(scores, slack.tolist(), allowed[part], ks[part], strict=True):
            if mask is not None:
                np.copyto(row, -np.inf, where=~mask)
            found.append(first + _best(row, k, room))
    return found


def _scores(queries: FloatArray, rows: VectorRows, first: int, last: int) -> FloatArray:
    """Returns the product of all queries with slots [first, last), (B, last - first)."""
    step = _UNPACKED_AT_ONCE if rows.packed else last - first
    scores = np.empty((len(queries), last - first), np.float32)
    for start in range(first, last, step):
        numbers, scales = rows.raw(start, min(start + step, last))
        vectors = numbers.astype(np.float32, copy=False)
        place = slice(start - first, start - first + len(vectors))
        if len(queries) < _MATRIX_FROM:
            for row, query in zip(scores, queries, strict=True):
                row[place] = vectors @ query
        else:
            scores[:, place] = queries @ vectors.T
        if scales is not None:
            scores[:, place] *= scales
    return scores


def _best(scores: FloatArray, k: int, slack: float) -> IntArray:
    if len(scores) <= k:
        return np.flatnonzero(scores > -np.inf)
    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    return np.flatnonzero((scores >= kth - slack) & (scores > -np.inf))


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
