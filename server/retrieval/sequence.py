"""The items' side of the sequential view.

Shapes: N items of a bundle, B items, D = 384 dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.domain.ranking import VIEW_DIMENSIONS

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SequenceSpace:
    """The vectors that the bundle's encoder reads and whose products with its answer rank. Without a trained view all are zero."""

    items: FloatArray
    """float32, (N, D); (0, D) without a trained view."""
    stranger: FloatArray
    """float32, (D,): an item that training did not see, before its text is added."""
    projection: FloatArray
    """float32, (D, D): a text vector's part of it."""
    event_types: tuple[str, ...]
    """Types of events that the encoder tells apart, in the order of its table."""

    @classmethod
    def empty(cls) -> SequenceSpace:
        """Returns the space of a bundle that trained no such view."""
        nothing = np.zeros((0, VIEW_DIMENSIONS), np.float32)
        return cls(nothing, np.zeros(VIEW_DIMENSIONS, np.float32), np.zeros((VIEW_DIMENSIONS, VIEW_DIMENSIONS), np.float32), ())

    @property
    def trained(self) -> bool:
        """Whether there is an encoder to ask."""
        return len(self.items) > 0

    def vectors(self, rows: IntArray, text_vectors: FloatArray) -> FloatArray:
        """Returns the items' vectors, float32, (B, D).

        Args:
            rows: (B,), rows of the bundle; -1 for an item that it does not know.
            text_vectors: float32, (B, D).
        """
        if not self.trained:
            return np.zeros((len(rows), VIEW_DIMENSIONS), np.float32)
        known = rows >= 0
        found = np.empty((len(rows), VIEW_DIMENSIONS), np.float32)
        found[known] = self.items[rows[known]]
        found[~known] = self.stranger + text_vectors[~known] @ self.projection
        return found
