"""Counts of pairs of rows that change all the time: what the item-to-item source keeps beside the counts of its bundle.

Shapes: N rows, R rows asked for, P entries added, E entries kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor, Future
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
_MOST_WAITING = 8
"""Full tails that wait for a merge on another thread. With more, whoever adds waits too."""
_GROWTH = 2
"""A run is merged into the one before it unless that is larger by this factor: an entry moves a few times, and runs stay few."""
_ROOM = 0.75
"""Share of the limit that a cut leaves filled, so that the next one is far."""


class _Run(NamedTuple):
    """Entries, each pair once and in order unless it says otherwise."""

    keys: IntArray
    """(E,): row << 32 | column."""
    values: FloatArray
    """(E,)."""


class _Bounds(NamedTuple):
    """What runs are cut to."""

    neighbours: int
    limit: int


class PairCounts:
    """Sums by pair of rows, kept as a few sorted runs, each several times longer than the next, and a short unsorted tail.

    Sums are exact while they are whole numbers below 2 ** 24. Not thread-safe.

    Args:
        neighbours: Entries a row keeps for certain; a row of more than twice as many is cut to its largest.
        limit: Entries in all. Beyond it every row is cut to its k largest, k as large as leaves three quarters of the limit.

    Source: P. O'Neil et al., "The log-structured merge-tree (LSM-tree)", Acta Informatica 33 (1996).
    """

    def __init__(self, *, neighbours: int = NEIGHBOURS, limit: int = LIMIT) -> None:
        self._bounds = _Bounds(neighbours, limit)
        self._runs: tuple[_Run, ...] = ()
        self._waiting: list[_Run] = []
        """Full tails, unsorted; the first `_taken` of them are being merged."""
        self._taken = 0
        self._merging: Future[tuple[_Run, ...]] | None = None
        self._keys = np.zeros(_TAIL, np.int64)
        self._values = np.zeros(_TAIL, np.float32)
        self._used = 0
        self._scales = np.zeros(0, np.float32)
        """Weights of the rows of one question, 0 between questions: as many zeros anew for each would cost more than the answer."""
        self.executor: Executor | None = None
        """Where runs are merged, while questions go on to be answered from the old ones. None: on the thread of whoever adds."""

    def __len__(self) -> int:
        """Entries kept; a pair counts once for each run and tail that has it."""
        return sum(len(run.keys) for run in (*self._runs, *self._waiting)) + self._used

    def add(self, keys: IntArray, values: FloatArray) -> None:
        """Adds to the counts of pairs. Costs O(P log E), over many calls.

        Args:
            keys: (P,): row << 32 | column, in any order, also repeated.
            values: (P,).
        """
        if self._used + len(keys) > _TAIL:
            tail, values_before = self._keys[: self._used], self._values[: self._used]
            self._waiting.append(_Run(np.concatenate([tail, keys]), np.concatenate([values_before, values])))
            self._used = 0
            self._merge()
            return
        place = slice(self._used, self._used + len(keys))
        self._keys[place], self._values[place] = keys, values
        self._used = place.stop

    def _merge(self) -> None:
        """Merges what waits, or begins to."""
        if self.executor is None:
            self._runs = _merged(self._runs, self._waiting, self._bounds)
            self._waiting.clear()
            return
        self._adopt(wait=len(self._waiting) > _MOST_WAITING)
        if self._merging is None:
            self._taken = len(self._waiting)
            self._merging = self.executor.submit(_merged, self._runs, tuple(self._waiting), self._bounds)

    def _adopt(self, *, wait: bool = False) -> None:
        """Takes over what another thread has merged: runs change here alone."""
        if self._merging is not None and (wait or self._merging.done()):
            self._runs = self._merging.result()
            del self._waiting[: self._taken]
            self._merging = None

    def gather(self, rows: IntArray, weights: FloatArray, size: int) -> tuple[IntArray, FloatArray]:
        """Returns the entries of some rows: column, and count times the row's weight, (entries,) each; a pair may have several.

        Cost follows the entries of these rows, and the tail.

        Args:
            rows: (R,), distinct, ascending.
            weights: float32, (R,).
            size: N, above every row.
        """
        self._adopt()
        columns, values = [], []
        for run in self._runs:
            starts = np.searchsorted(run.keys, rows << 32)
            lengths = np.searchsorted(run.keys, (rows + 1) << 32) - starts
            places = np.arange(int(lengths.sum())) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
            columns.append(run.keys[places] & 0xFFFFFFFF)
            values.append(run.values[places] * np.repeat(weights, lengths))
        if len(self._scales) < size:
            self._scales = np.zeros(size + size // 8, np.float32)
        self._scales[rows] = weights
        for keys, counts in (*self._waiting, _Run(self._keys[: self._used], self._values[: self._used])):
            scales = self._scales[keys >> 32]
            mine = np.flatnonzero(scales)
            columns.append(keys[mine] & 0xFFFFFFFF)
            values.append(counts[mine] * scales[mine])
        self._scales[rows] = 0
        return np.concatenate(columns), np.concatenate(values)


def _merged(runs: Iterable[_Run], tails: Iterable[_Run], bounds: _Bounds) -> tuple[_Run, ...]:
    """Returns the runs with unsorted tails in them, within bounds."""
    found = list(runs)
    for tail in tails:
        run = _summed(*tail, kind="quicksort")
        while found and len(found[-1].keys) <= _GROWTH * len(run.keys):
            before = found.pop()
            run = _summed(np.concatenate([before.keys, run.keys]), np.concatenate([before.values, run.values]), kind="stable")
            run = _cut(run, bounds) if _longest(run) > 2 * bounds.neighbours else run
        found.append(run)
        if sum(len(run.keys) for run in found) > bounds.limit:
            keys, values = (np.concatenate(parts) for parts in zip(*found, strict=True))
            found = [_cut(_summed(keys, values, kind="stable"), bounds)]
    return tuple(found)


def _cut(run: _Run, bounds: _Bounds) -> _Run:
    """Returns the run with the k largest entries of each row, ties by column, k <= `neighbours` as large as the limit allows."""
    rows, neighbours = run.keys >> 32, bounds.neighbours
    order = np.lexsort((-run.values, rows))
    first = np.searchsorted(rows, rows)  # (E,): where the entry's row begins
    place = np.empty(len(rows), np.int64)
    place[order] = np.arange(len(rows)) - first
    if len(rows) > bounds.limit:
        fitting = np.cumsum(np.bincount(place)) <= _ROOM * bounds.limit
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
