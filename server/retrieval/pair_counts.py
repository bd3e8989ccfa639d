"""Counts of pairs of rows that change all the time: what the item-to-item source keeps beside the counts of its bundle.

Shapes: N rows, P entries added, E entries kept.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

IntArray: TypeAlias = NDArray[np.int64]
FloatArray: TypeAlias = NDArray[np.float32]

NEIGHBOURS = 500
"""Entries kept in a row, by training and here: bounds memory at 500 * N * 8 bytes, and the tail says little."""

LIMIT = 1 << 19
"""Entries kept in all, of 12 bytes each. Merging them, or cutting them down, takes 50 to 70 ms."""

_TAIL = 1 << 14
"""Entries not yet sorted. Each question reads them all, in some 40 us."""
_GROWTH = 2
"""A run is merged into the one before it unless that is larger by this factor: an entry moves a few times, and runs stay few."""
_ROOM = 0.75
"""Share of the limit that a cut leaves filled, so that the next one is far."""


class _Run(NamedTuple):
    """Entries in order, each pair once."""

    keys: IntArray
    """(E,): row << 32 | column, rising."""
    values: FloatArray
    """(E,)."""


class PairCounts:
    """Sums by pair of rows, kept as a few sorted runs, each several times longer than the next, and a short unsorted tail.

    Sums are exact while they are whole numbers below 2 ** 24. Not thread-safe.

    Args:
        neighbours: Entries a row keeps for certain; a row of more than twice as many is cut to its largest.
        limit: Entries in all. Beyond it every row is cut to its k largest, k as large as leaves three quarters of the limit.

    Source: P. O'Neil et al., "The log-structured merge-tree (LSM-tree)", Acta Informatica 33 (1996).
    """

    def __init__(self, *, neighbours: int = NEIGHBOURS, limit: int = LIMIT) -> None:
        self._neighbours = neighbours
        self._limit = limit
        self._runs: list[_Run] = []
        self._keys = np.zeros(_TAIL, np.int64)
        self._values = np.zeros(_TAIL, np.float32)
        self._used = 0

    def __len__(self) -> int:
        """Entries kept; a pair counts once for each run that has it."""
        return sum(len(run.keys) for run in self._runs) + self._used

    def add(self, keys: IntArray, values: FloatArray) -> None:
        """Adds to the counts of pairs. Costs O(P log E), over many calls.

        Args:
            keys: (P,): row << 32 | column, in any order, also repeated.
            values: (P,).
        """
        if self._used + len(keys) > _TAIL:
            tail = _summed(
                np.concatenate([self._keys[: self._used], keys]), np.concatenate([self._values[: self._used], values]), kind="quicksort"
            )
            self._used = 0
            self._push(tail)
            return
        place = slice(self._used, self._used + len(keys))
        self._keys[place], self._values[place] = keys, values
        self._used = place.stop

    def spread(self, weights: FloatArray) -> FloatArray:
        """Returns `weights` times the counts, float32, (N,): for each column the sum over rows of weight * count.

        Args:
            weights: float32, (N,). Cost follows the entries of rows that do not have weight 0.
        """
        chosen = np.flatnonzero(weights)
        columns, values = [], []
        for run in self._runs:
            starts = np.searchsorted(run.keys, chosen << 32)
            lengths = np.searchsorted(run.keys, (chosen + 1) << 32) - starts
            places = np.arange(int(lengths.sum())) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
            columns.append(run.keys[places] & 0xFFFFFFFF)
            values.append(run.values[places] * np.repeat(weights[chosen], lengths))
        keys = self._keys[: self._used]
        scales = weights[keys >> 32]
        mine = np.flatnonzero(scales)
        columns.append(keys[mine] & 0xFFFFFFFF)
        values.append(self._values[mine] * scales[mine])
        return np.bincount(np.concatenate(columns), np.concatenate(values), minlength=len(weights)).astype(np.float32)

    def _push(self, run: _Run) -> None:
        while self._runs and len(self._runs[-1].keys) <= _GROWTH * len(run.keys):
            before = self._runs.pop()
            run = _summed(np.concatenate([before.keys, run.keys]), np.concatenate([before.values, run.values]), kind="stable")
            run = self._cut(run, self._neighbours) if _longest(run) > 2 * self._neighbours else run
        self._runs.append(run)
        if len(self) > self._limit:
            keys, values = (np.concatenate(parts) for parts in zip(*self._runs, strict=True))
            self._runs = [self._cut(_summed(keys, values, kind="stable"), self._neighbours)]

    def _cut(self, run: _Run, neighbours: int) -> _Run:
        """Returns the run with the k largest entries of each row, ties by column, k <= `neighbours` as large as the limit allows."""
        rows = run.keys >> 32
        order = np.lexsort((-run.values, rows))
        first = np.searchsorted(rows, rows)  # (E,): where the entry's row begins
        place = np.empty(len(rows), np.int64)
        place[order] = np.arange(len(rows)) - first
        if len(rows) > self._limit:
            fitting = np.cumsum(np.bincount(place)) <= _ROOM * self._limit
            neighbours = min(neighbours, int(fitting.sum()))
        kept = place < neighbours
        return _Run(run.keys[kept], run.values[kept])


def _summed(keys: IntArray, values: FloatArray, *, kind: Literal["stable", "quicksort"]) -> _Run:
    """Returns the entries in order, equal keys added up. Those that cancelled out are gone. "stable" is fast where sorted runs follow."""
    order = np.argsort(keys, kind=kind)
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.zeros(0, np.int64)
    sums = np.add.reduceat(values[order], starts) if len(keys) else values
    kept = sums != 0
    return _Run(keys[starts][kept], sums[kept])


def _longest(run: _Run) -> int:
    starts = np.flatnonzero(np.diff(run.keys >> 32, prepend=-1, append=np.iinfo(np.int64).max))
    return int(np.diff(starts).max(initial=0))
