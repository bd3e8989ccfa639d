"""Where an index keeps vectors and items: slots, written once and never changed.

Shapes: S slots, D embedding dimensions.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from server.domain import Item
from server.errors import InvalidFieldError
from server.retrieval.columns import ItemColumns
from server.retrieval.filters import Filter
from server.retrieval.filters.evaluate import evaluate

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

MAX_NORM = 1e9
"""Longest vector taken: the product of two such still fits a float32 with room for rounding."""

MASK_CACHE_BYTES = 64 * 1024 * 1024
"""Evaluated filters kept by one store."""


def checked_vectors(field: str, vectors: NDArray[np.generic], dimension: int) -> FloatArray:
    """Returns vectors as C-contiguous float32 (n, dimension), unchanged where they are that already.

    Raises:
        InvalidFieldError: Another shape, a NaN or infinity, or a vector longer than `MAX_NORM`. Names `field` and the first bad row.
    """
    try:
        array = np.ascontiguousarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidFieldError(field, f"is no array of numbers ({error})") from error
    if array.ndim != 2 or array.shape[1] != dimension:
        length = array.shape[-1] if array.ndim else 0
        raise InvalidFieldError(
            field, f"has {length} numbers a vector; this index holds vectors of {dimension}", expected=dimension, actual=length
        )
    norms = np.sqrt(np.einsum("nd,nd->n", array, array, dtype=np.float64))
    bad = np.flatnonzero(~(norms <= MAX_NORM))
    if len(bad):
        problem = "is longer than 1e9; scale it down" if np.isfinite(array[bad[0]]).all() else "holds NaN or infinity; send finite numbers"
        raise InvalidFieldError(f"{field}[{bad[0]}]", problem, row=bad[0])
    return array


class SlotStore:
    """Append-only vectors and items. One writer at a time; readers of slots below `size` need no lock.

    A changed item takes a new slot and leaves the old one dead, so nothing that a search reads ever changes under it. Which slots live is
    the view's business, not the store's.
    """

    def __init__(self, dimension: int, capacity: int = 64) -> None:
        self.dimension = dimension
        self.vectors: FloatArray = np.empty((capacity, dimension), np.float32)  # (>= S, D)
        self.rows: NDArray[np.int32] = np.empty(capacity, np.int32)  # (>= S,): row of each slot
        self.columns = ItemColumns()
        self.size = 0
        self.max_norm = 0.0
        self._recent: deque[FloatArray] = deque(maxlen=64)
        self._masks: OrderedDict[Filter, BoolArray] = OrderedDict()
        self._masks_bytes = 0
        self._masks_lock = threading.Lock()

    def append(self, items: Sequence[Item], vectors: FloatArray, rows: NDArray[np.int32]) -> None:
        """Writes one slot an item. `vectors` (n, D), `rows` (n,)."""
        end = self.size + len(items)
        if end > len(self.vectors):
            self._grow(max(end, 2 * len(self.vectors)))
        self.vectors[self.size : end] = vectors
        self.rows[self.size : end] = rows
        self.columns.extend(items)
        if len(items):
            self.max_norm = max(self.max_norm, float(np.sqrt(np.einsum("nd,nd->n", vectors, vectors).max())))
        self.size = end

    def _grow(self, capacity: int) -> None:
        vectors = np.empty((capacity, self.dimension), np.float32)
        vectors[: self.size] = self.vectors[: self.size]
        rows = np.empty(capacity, np.int32)
        rows[: self.size] = self.rows[: self.size]
        self.vectors, self.rows = vectors, rows

    def note_query(self, query: FloatArray) -> None:
        """Remembers a query, (D,), as one that compressed codes should be good at. All zeros say nothing."""
        if query.any():
            self._recent.append(query)

    def recent_queries(self) -> FloatArray:
        """Returns a copy of the last queries, (at most 64, D)."""
        return np.array(list(self._recent), np.float32).reshape(-1, self.dimension)

    def mask(self, where: Filter, stop: int) -> BoolArray:
        """Returns which of slots [0, stop) pass a filter, dead ones included, read-only.

        Remembered; a filter seen before is evaluated only on the slots written since.
        """
        with self._masks_lock:
            known = self._masks.get(where)
            if known is not None:
                self._masks.move_to_end(where)
        start = 0 if known is None else len(known)
        if known is not None and start >= stop:
            return known[:stop]
        fresh = evaluate(where.root, self.columns, start, stop)
        mask: BoolArray = fresh if known is None else np.concatenate([known, fresh])
        mask.flags.writeable = False
        self._remember(where, mask)
        return mask

    def _remember(self, where: Filter, mask: BoolArray) -> None:
        with self._masks_lock:
            old = self._masks.pop(where, None)
            self._masks_bytes += mask.nbytes - (0 if old is None else old.nbytes)
            self._masks[where] = mask
            while self._masks_bytes > MASK_CACHE_BYTES and len(self._masks) > 1:
                self._masks_bytes -= self._masks.popitem(last=False)[1].nbytes
