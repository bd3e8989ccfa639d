"""Vectors by slot: float32 while they are few, 16-bit integers with a scale a vector when they are many.

A packed number is off by at most 1/65,534 of its vector's largest one, which is less than a matrix product in float32 loses (`scan`), so
an order changes only where scores are equal up to rounding anyway. It takes half the bytes, and reading bytes is what scoring waits for.

Shapes: S slots, D embedding dimensions, C candidates.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

_products_by_id: Any = faiss.fvec_inner_products_by_idx  # type: ignore[attr-defined]  # the stub lacks it
_LARGEST = 32_767
_CHUNK_NUMBERS = 98_304
"""Packed numbers turned into floats at once: they stay in the second-level cache."""
_MOVED_AT_ONCE = 4096
"""Slots turned from one form into the other at once."""


class VectorRows:
    """Room for vectors, (capacity, D). What was written is never changed; one writer at a time, readers need no lock.

    Args:
        numbers: float32, or int16 when packed, (capacity, D).
        scales: float32, (capacity,): what a packed vector's numbers are multiplied by; None when not packed.
    """

    def __init__(self, numbers: NDArray[Any], scales: FloatArray | None) -> None:
        self._numbers = numbers
        self._scales = scales

    @classmethod
    def empty(cls, capacity: int, dimension: int, *, packed: bool) -> VectorRows:
        """Returns room for `capacity` vectors."""
        scales = np.empty(capacity, np.float32) if packed else None
        return cls(np.empty((capacity, dimension), np.int16 if packed else np.float32), scales)

    @property
    def packed(self) -> bool:
        """Whether numbers have 16 bits."""
        return self._scales is not None

    @property
    def dimension(self) -> int:
        """D."""
        return int(self._numbers.shape[1])

    @property
    def capacity(self) -> int:
        """Slots there is room for."""
        return len(self._numbers)

    @property
    def slot_bytes(self) -> int:
        """Bytes that one vector takes."""
        return int(self._numbers.itemsize) * self.dimension + (4 if self.packed else 0)

    def write(self, first: int, vectors: FloatArray) -> None:
        """Writes finite vectors, (n, D), to the slots from `first` on."""
        part = slice(first, first + len(vectors))
        if self._scales is None:
            self._numbers[part] = vectors
            return
        scales = (np.abs(vectors).max(axis=1, initial=0.0) / _LARGEST).astype(np.float32)
        scales[scales == 0] = 1
        self._scales[part] = scales
        self._numbers[part] = np.rint(vectors / scales[:, None])

    def write_raw(self, first: int, numbers: NDArray[Any], scales: FloatArray | None) -> None:
        """Writes what `raw` gave."""
        part = slice(first, first + len(numbers))
        self._numbers[part] = numbers
        if self._scales is not None:
            assert scales is not None
            self._scales[part] = scales

    def raw(self, first: int, last: int) -> tuple[NDArray[Any], FloatArray | None]:
        """Returns slots [first, last) as they are kept: numbers (n, D), and scales (n,) when packed. Not to be changed."""
        return self._numbers[first:last], None if self._scales is None else self._scales[first:last]

    def part(self, first: int, last: int) -> FloatArray:
        """Returns slots [first, last), (n, D): not to be changed, and a copy when packed."""
        numbers = self._numbers[first:last]
        return numbers if self._scales is None else numbers * self._scales[first:last, None]

    def take(self, slots: NDArray[np.integer[Any]], part: slice = slice(None)) -> FloatArray:
        """Returns a copy of chosen slots' vectors, or of a part of each, (C, D)."""
        numbers: FloatArray = self._numbers[slots, part]  # np.take would first copy that part of every vector there is
        return numbers if self._scales is None else numbers * self._scales[slots][:, None]

    def products(self, query: FloatArray, slots: IntArray) -> FloatArray:
        """Returns the inner products of one query, (D,), with chosen slots, (C,).

        Each row is summed in one fixed order, so equal vectors get equal scores wherever they stand and whatever else is asked for, which
        a matrix product does not promise.
        """
        found: FloatArray = self.products_by_part(query[None, :], slots)[0]
        return found

    def products_by_part(self, parts: FloatArray, slots: NDArray[np.integer[Any]]) -> FloatArray:
        """Returns the inner products of each part of one query with that part of chosen slots, (P, C); a row each in a fixed order.

        Args:
            parts: float32, (P, D / P): the query, cut into P equal parts. Of one that is zero nothing is read.
            slots: (C,), that were written.
        """
        count, length = parts.shape
        found = np.zeros((count, len(slots)), np.float32)
        for place, query in enumerate(np.ascontiguousarray(parts)):
            if not len(slots) or not query.any():
                continue
            if self._scales is None:  # part p of slot s is row s P + p of the same numbers
                wanted = slots.astype(np.int64) * count + place
                pointers = [faiss.swig_ptr(array) for array in (found[place], query, self._numbers, wanted)]
                _products_by_id(*pointers, length, 1, len(wanted))
                continue
            own, chunk = slice(place * length, (place + 1) * length), max(1, _CHUNK_NUMBERS // length)
            for first in range(0, len(slots), chunk):
                numbers = self._numbers[slots[first : first + chunk], own].astype(np.float32)
                np.einsum("cd,d->c", numbers, query, out=found[place, first : first + chunk])
            found[place] *= self._scales[slots]
        return found

    def moved(self, size: int, capacity: int, *, packed: bool) -> VectorRows:
        """Returns a copy of the first `size` slots with other room, packed if that is asked for or so already."""
        result = VectorRows.empty(capacity, self.dimension, packed=packed or self.packed)
        for first in range(0, size, _MOVED_AT_ONCE):
            last = min(first + _MOVED_AT_ONCE, size)
            if result.packed == self.packed:
                result.write_raw(first, *self.raw(first, last))
            else:
                result.write(first, self.part(first, last))
        return result
