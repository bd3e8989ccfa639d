"""A short form of vectors in which most of every inner product is kept, to search through before exact scores are computed.

Shapes: n vectors, B queries, D embedding dimensions, P dimensions of the short form.

Source: H. Jégou et al., Aggregating Local Image Descriptors into Compact Codes, TPAMI 34 (2012): principal directions, then a turn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from server.retrieval.vector_rows import FloatArray

_LEAST_WEIGHT = 0.01
"""Of a dimension, relative to the heaviest: what no query asked for so far may be asked for later."""


@dataclass(frozen=True, eq=False)
class Prefix:
    """<query @ of_queries, item @ of_items> approximates <query, item>."""

    source: int
    """D."""
    dimensions: int
    """P."""
    of_items: FloatArray | None = None
    """(D, P); None: nothing is turned or left out, and zeros are appended where P > D."""
    of_queries: FloatArray | None = None
    """(D, P), or None like the other."""

    @classmethod
    def whole(cls, dimension: int, multiple: int) -> Prefix:
        """Returns the form that only appends zeros, up to a multiple."""
        return cls(dimension, -(-dimension // multiple) * multiple)

    def items(self, vectors: FloatArray) -> FloatArray:
        """Returns the short form of items, (n, P), from (n, D)."""
        return self._of(vectors, self.of_items)

    def queries(self, vectors: FloatArray) -> FloatArray:
        """Returns the short form of queries, (B, P), from (B, D)."""
        return self._of(vectors, self.of_queries)

    def _of(self, vectors: FloatArray, matrix: FloatArray | None) -> FloatArray:
        if matrix is not None:
            return np.ascontiguousarray(vectors @ matrix)
        missing = self.dimensions - self.source
        return np.ascontiguousarray(np.pad(vectors, ((0, 0), (0, missing))) if missing else vectors)


@dataclass(frozen=True, eq=False)
class Directions:
    """All D directions of some vectors, the one that says most of inner products first."""

    of_items: FloatArray
    """(D, D), a direction a column."""
    of_queries: FloatArray
    """(D, D)."""

    def first(self, dimensions: int, rng: np.random.Generator) -> Prefix:
        """Returns the first P directions, turned at random among themselves.

        Every group of numbers then says about as much as any other, so that codes of equal length for each group fit.
        """
        turn = np.linalg.qr(rng.standard_normal((dimensions, dimensions)))[0].astype(np.float32)
        items, queries = self.of_items[:, :dimensions] @ turn, self.of_queries[:, :dimensions] @ turn
        return Prefix(len(items), dimensions, np.ascontiguousarray(items), np.ascontiguousarray(queries))


def principal(items: FloatArray, queries: FloatArray) -> Directions:
    """Returns the principal directions. Takes a second for D = 1536.

    Dimensions are weighted by how much of them queries ask for, so that what no query weighs takes no room. Takes a second for D = 1536.

    Args:
        items: (n, D), a sample.
        queries: (B, D), the kind that will be asked.
    """
    weights = np.sqrt(np.einsum("bd,bd->d", queries, queries) / max(1, len(queries)))
    weights = np.maximum(weights, _LEAST_WEIGHT * max(float(weights.max(initial=0.0)), 1e-30)).astype(np.float32)
    weighted = items * weights
    # Not centred: inner products are to be kept, not distances from the mean.
    _, directions = np.linalg.eigh(weighted.T @ weighted)
    directions = directions[:, ::-1].astype(np.float32)
    return Directions(weights[:, None] * directions, directions / weights[:, None])
