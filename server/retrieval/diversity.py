"""Lists whose items differ from each other.

Shapes: P items of a pool, D numbers a fused vector, L numbers a likeness vector.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.retrieval.vectors import COLLABORATIVE, SEMANTIC

FloatArray: TypeAlias = NDArray[np.float32]

POOL = 100
"""Best items that are put in another order; what comes after them keeps the order of scores."""


def likeness_vectors(fused: FloatArray) -> FloatArray:
    """Returns vectors whose inner product is how alike two items are, float32, (P, L), of unit length or zero.

    That is the cosine of their texts; where both lack a text, of their collaborative views; 0 where one lacks it.

    Args:
        fused: float32, (P, D), as `VectorSpace.item_vectors` makes them.
    """
    texts = _unit_rows(fused[:, SEMANTIC])
    tastes = _unit_rows(fused[:, COLLABORATIVE])
    tastes[texts.any(axis=1)] = 0.0
    return np.concatenate([texts, tastes], axis=1)


def diversified(scores: FloatArray, likeness: FloatArray, *, strength: float, limit: int) -> list[int]:
    """Returns all places of the pool by maximal marginal relevance.

    The next place is the one with the largest (1 - strength) * relevance - strength * its greatest likeness to what was taken. Relevance is
    the score, scaled to 1 for the pool's best and 0 for its last. Likeness below 0 counts as 0; ties go to the better score. Places after
    the first `limit` keep the order of scores. Costs O(limit * P * L).

    Args:
        scores: float32, (P,), falling.
        likeness: float32, (P, L), as `likeness_vectors` returns.
        strength: In [0, 1). At 0 the order is that of scores.
        limit: Places that are chosen.

    Source: J. Carbonell, J. Goldstein, The Use of MMR, Diversity-Based Reranking for Reordering Documents and Producing Summaries,
    SIGIR 1998.
    """
    if len(scores) == 0:
        return []
    spread = max(float(scores[0] - scores[-1]), 1e-9)
    value = (1 - strength) * (scores - scores[-1]) / np.float32(spread)  # (P,)
    nearest = np.zeros(len(scores), np.float32)
    taken: list[int] = []
    for _ in range(min(limit, len(scores))):
        place = int(np.argmax(value - strength * nearest))
        taken.append(place)
        value[place] = -np.inf
        np.maximum(nearest, likeness @ likeness[place], out=nearest)
    chosen = set(taken)
    return taken + [place for place in range(len(scores)) if place not in chosen]


def _unit_rows(vectors: FloatArray) -> FloatArray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1.0), np.float32)
