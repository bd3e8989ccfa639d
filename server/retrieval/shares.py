"""What the item-to-item source says of items, kept for the few that it knows something about: no request pays for the size of a catalogue.

Shapes: N rows, K rows that are listed, E entries to add up, C rows asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]

_WORTH_SORTING = 8
"""Rows for each listed one up to which zeros for all are cheaper."""


class SparseShares(NamedTuple):
    """Shares of the rows that have any. Rows that are not listed have zeros; a listed one may."""

    rows: IntArray
    """(K,), distinct."""
    transitions: FloatArray
    """float32, (K,): the recency-weighted mean chance, in [0, 1], that the item follows one of the history's."""
    cosine: FloatArray
    """float32, (K,): the recency-weighted mean cosine, in [0, 1], of the item's and the history items' users."""
    regression: FloatArray
    """float32, (K,): the recency-weighted sum of the history items' regression weights on the item, >= 0."""

    def of_all(self, size: int) -> SparseShares:
        """Returns the shares with all rows listed, in order.

        Args:
            size: N, above every row.
        """
        columns = np.zeros((3, size), np.float32)
        for column, own in zip(columns, self[1:], strict=True):
            column[self.rows] = own
        return SparseShares(np.arange(size), *columns)

    def moved(self, places: IntArray, size: int) -> SparseShares:
        """Returns the shares with other numbers for the rows, ascending.

        Args:
            places: (K,): the new numbers, distinct; -1 leaves a row out.
            size: N of the new numbers. If that is little more than K, all rows are listed, which needs no sorting.
        """
        here = np.flatnonzero(places >= 0)
        places = places[here]
        if size <= _WORTH_SORTING * len(places):
            return SparseShares(places, *(own[here] for own in self[1:])).of_all(size)
        ordered = np.sort(places << 32 | here)  # twice as fast as argsort
        places, order = ordered >> 32, ordered & 0xFFFFFFFF
        return SparseShares(places, *(own[order] for own in self[1:]))

    def at(self, rows: IntArray) -> SparseShares:
        """Returns the shares of these rows, (C,), in the order given. The own rows have to be ascending, as `moved` leaves them."""
        count = len(self.rows)
        if not count:
            nothing = np.zeros(len(rows), np.float32)
            return SparseShares(rows, nothing, nothing, nothing)
        if self.rows[-1] == count - 1:  # all rows are listed
            return SparseShares(rows, *(own[rows] for own in self[1:]))
        places = np.minimum(np.searchsorted(self.rows, rows), count - 1)
        known = self.rows[places] == rows
        return SparseShares(rows, *(np.where(known, own[places], np.float32(0)) for own in self[1:]))


class Binned(NamedTuple):
    """Entries by row, ready to be added up."""

    rows: IntArray
    """(K,), distinct: those that have entries, or all."""
    bins: Sequence[NDArray[np.integer[Any]]]
    """Of each part, the bin of each entry, (E,)."""
    bin_count: int
    """Bins, at most as many as entries, or as rows."""
    used: IntArray | slice
    """(K,): the bin of each of `rows`."""

    def sums(self, part: int, values: NDArray[np.floating[Any]]) -> FloatArray:
        """Returns the sums of a part's values, (E,), by row, float32, (K,)."""
        return np.bincount(self.bins[part], values, minlength=self.bin_count)[self.used].astype(np.float32)


class Binning:
    """Numbers the rows that entries are of, so that sums by row need no bin for each of N.

    Not thread-safe. What is kept is written before it is read, so that nothing has to be cleared between questions.
    """

    def __init__(self) -> None:
        self._bins = np.zeros(0, np.int32)

    def of(self, parts: Sequence[NDArray[np.integer[Any]]], size: int, *, own_bins: int = 2) -> Binned:
        """Returns the bins of entries in any number of parts.

        Args:
            parts: The row of each entry, (E,) each.
            size: N.
            own_bins: Rows for each entry up to which each row is its own bin, which is cheaper while they are few.
        """
        count = sum(map(len, parts))
        if size <= own_bins * count:
            return Binned(np.arange(size), parts, size, slice(None))
        if len(self._bins) < size:
            self._bins = np.zeros(size + size // 8, np.int32)
        rows, entries = np.concatenate([np.zeros(0, np.int32), *parts]), np.arange(count, dtype=np.int32)
        self._bins[rows] = entries  # of several entries of a row one is kept: its place is their bin
        bins = self._bins[rows]
        used = np.flatnonzero(bins == entries)
        return Binned(rows[used].astype(np.int64), np.split(bins, np.cumsum([len(part) for part in parts])[:-1]), count, used)
