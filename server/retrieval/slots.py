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
from server.retrieval.vector_rows import FloatArray, VectorRows

BoolArray = NDArray[np.bool_]

MAX_NORM = 1e9
"""Longest vector taken: the product of two such still fits a float32 with room for rounding."""

MASK_CACHE_BYTES = 64 * 1024 * 1024
"""Evaluated filters kept by one store."""

_REMEMBERED_QUERIES = 512
_SLOTS_A_QUERY = 16
"""At most one query is remembered for so many vectors: they are as large, and small catalogues need none."""


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

    Args:
        dimension: D.
        capacity: Slots there is room for at first; it doubles when it is full.
        packed_numbers: Room for more than so many numbers is in 16 bits each.

    Attributes:
        aligned: So many slots from the first on are those of the rows of the same numbers.
    """

    def __init__(self, dimension: int, capacity: int = 64, *, packed_numbers: int) -> None:
        self.dimension = dimension
        self.packed_numbers = packed_numbers
        self.vectors = VectorRows.empty(capacity, dimension, packed=capacity * dimension > packed_numbers)
        self.rows: NDArray[np.int32] = np.empty(capacity, np.int32)  # (>= S,): row of each slot
        self.columns = ItemColumns()
        self.size = 0
        self.aligned = 0
        self.max_norm = 0.0
        self._recent: deque[FloatArray] = deque()
        self._masks: OrderedDict[Filter, BoolArray] = OrderedDict()
        self._masks_bytes = 0
        self._masks_lock = threading.Lock()

    @classmethod
    def holding(cls, items: Sequence[Item], vectors: VectorRows, rows: NDArray[np.int32], *, packed_numbers: int) -> SlotStore:
        """Returns a store of these items, vectors and rows, all of one length. The arrays are kept as they are until the next write."""
        store = cls(vectors.dimension, capacity=0, packed_numbers=packed_numbers)
        store.vectors, store.rows, store.size = vectors, rows, len(items)
        store.columns.extend(items)
        differs = np.flatnonzero(rows != np.arange(len(rows)))
        store.aligned = int(differs[0]) if len(differs) else len(rows)
        return store

    def append(self, items: Sequence[Item], vectors: FloatArray, rows: NDArray[np.int32]) -> None:
        """Writes one slot an item. `vectors` (n, D), `rows` (n,)."""
        end = self.size + len(items)
        if end > self.vectors.capacity:
            self._grow(max(end, 2 * self.vectors.capacity))
        self.vectors.write(self.size, vectors)
        self.rows[self.size : end] = rows
        if self.aligned == self.size and (rows == np.arange(self.size, end)).all():
            self.aligned = end
        self.columns.extend(items)
        if len(items):
            self.max_norm = max(self.max_norm, float(np.sqrt(np.einsum("nd,nd->n", vectors, vectors).max())))
        self.size = end

    def _grow(self, capacity: int) -> None:
        rows = np.empty(capacity, np.int32)
        rows[: self.size] = self.rows[: self.size]
        self.vectors = self.vectors.moved(self.size, capacity, packed=capacity * self.dimension > self.packed_numbers)
        self.rows = rows

    def note_query(self, query: FloatArray) -> None:
        """Remembers a query, (D,), as one that compressed codes should be good at. All zeros say nothing."""
        if query.any():
            self._recent.append(query)
            while len(self._recent) > max(1, min(_REMEMBERED_QUERIES, self.size // _SLOTS_A_QUERY)):
                self._recent.popleft()

    def recent_queries(self) -> FloatArray:
        """Returns a copy of the last queries, (at most 512, D)."""
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
