"""Sources of candidates that need only counting: item-to-item, trending, freshness.

Shapes: N items, H interactions of a history, C candidates.
"""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.domain.ids import ItemId
from server.domain.profiles import Interaction
from server.retrieval.vectors import recency_weights

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]

_LEADERS = 200
"""Trending items kept in order."""

FRESH_HALF_LIFE_S = 14 * 86400.0

TRANSITION_WINDOW = 3
"""How many of a user's events before an item lead to it, the d-th counting 1/d."""


@dataclass(frozen=True, slots=True)
class CsrCounts:
    """A sparse N x N array of counts in compressed rows, as memory-mapped from a bundle."""

    indptr: IntArray
    """int64, (N + 1,)."""
    indices: NDArray[np.int32]
    """int32, (nnz,): columns."""
    data: FloatArray
    """float32, (nnz,)."""

    @classmethod
    def empty(cls, items: int = 0) -> CsrCounts:
        """Returns all zeros for `items` rows."""
        return cls(np.zeros(items + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))

    def gather(self, rows: IntArray) -> tuple[IntArray, NDArray[np.int32], FloatArray]:
        """Returns the entries of some rows: place in `rows`, column, value; each (entries,)."""
        starts, ends = self.indptr[rows], self.indptr[rows + 1]
        lengths = ends - starts
        owners = np.repeat(np.arange(len(rows)), lengths)
        places = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths) + np.repeat(starts, lengths)
        return owners, self.indices[places], self.data[places]


class SparseShares(NamedTuple):
    """What the item-to-item source says of all its items, in the order of `SparseSource.item_ids`."""

    transitions: FloatArray
    """float32, (N,): the recency-weighted mean chance, in [0, 1], that the item follows one of the history's."""
    cosine: FloatArray
    """float32, (N,): the recency-weighted mean cosine, in [0, 1], of the item's and the history items' users."""


class SparseSource:
    """Directed transitions and cosine neighbours of items, with what happened since the bundle was counted.

    Not thread-safe: `observe` and `fold_in` belong to one event loop. `observe` adds to an in-memory delta; without pruning the sums are
    exactly those of counting everything again.

    Args:
        item_ids: Item of each row.
        transitions: Counts of j following i within `TRANSITION_WINDOW` events of a user, the d-th counting 1/d.
        together: Counts of users who have both i and j.
        mass: float32, (N,): row sums of `transitions` before pruning.
        users: float32, (N,): users who have the item.
        decays: Decay a step of a history's age for transitions and for cosine, each in (0, 1].
    """

    def __init__(
        self,
        item_ids: Sequence[ItemId],
        transitions: CsrCounts,
        together: CsrCounts,
        mass: FloatArray,
        users: FloatArray,
        *,
        decays: tuple[float, float],
    ) -> None:
        self._ids: list[ItemId] = list(item_ids)
        self._row = {item_id: row for row, item_id in enumerate(self._ids)}
        self._counted = len(self._ids)
        self._transitions, self._together = transitions, together
        self._mass = np.array(mass, np.float32)
        self._users = np.array(users, np.float32)
        self._decays = decays
        self._new_transitions: dict[int, dict[int, float]] = defaultdict(dict)
        self._new_together: dict[int, dict[int, float]] = defaultdict(dict)

    @classmethod
    def empty(cls) -> SparseSource:
        """Returns the source of a tenant without a bundle: it knows only what it observes."""
        nothing = np.zeros(0, np.float32)
        return cls((), CsrCounts.empty(), CsrCounts.empty(), nothing, nothing, decays=(0.8, 0.8))

    @property
    def item_ids(self) -> Sequence[ItemId]:
        """The item of each row; grows at the end."""
        return self._ids

    def fold_in(self, history: Sequence[Interaction], *, minimum_weight: float = 1e-3) -> SparseShares:
        """Returns the shares of all items.

        Args:
            history: Interactions, oldest first. Items nobody else touched lead nowhere.
            minimum_weight: Interactions whose weight relative to the newest is below it are left out: they cannot change the order.
        """
        kinds = [interaction.event_type for interaction in history]
        rows = np.fromiter((self._row.get(interaction.item_id, -1) for interaction in history), np.int64, len(history))
        return SparseShares(
            self._mean(rows, recency_weights(kinds, self._decays[0]), minimum_weight, cosine=False),
            self._mean(rows, recency_weights(kinds, self._decays[1]), minimum_weight, cosine=True),
        )

    def scores(self, history_rows: IntArray, weights: FloatArray, *, cosine: bool) -> FloatArray:
        """Returns one of the two scores of all items, float32, (N,), for bundle rows with given weights; for evaluation."""
        return self._mean(history_rows, weights, 0.0, cosine=cosine)

    def _mean(self, rows: IntArray, weights: FloatArray, minimum: float, *, cosine: bool) -> FloatArray:
        result = np.zeros(len(self._ids), np.float32)
        total = float(weights.sum())
        keep = (rows >= 0) & (weights > minimum * weights.max(initial=0.0))
        if total <= 0 or not keep.any():
            return result
        rows, weights = rows[keep], weights[keep]
        counted = rows < self._counted
        matrix, delta = (self._together, self._new_together) if cosine else (self._transitions, self._new_transitions)
        norms = np.sqrt(self._users) if cosine else self._mass
        scaled = weights / (np.maximum(norms[rows], 1e-9) * total)
        owners, columns, values = matrix.gather(rows[counted])
        result += np.bincount(columns, scaled[counted][owners] * values, minlength=len(self._ids)).astype(np.float32)
        for row, scale in zip(rows.tolist(), scaled.tolist(), strict=True):
            for column, value in delta.get(row, {}).items():
                result[column] += scale * value
        if cosine:
            result /= np.maximum(norms, 1e-9)
        return result

    def observe(self, history: Sequence[ItemId], item_id: ItemId) -> None:
        """Counts one new interaction.

        Args:
            history: Items of the user's earlier interactions, oldest first, without the new one.
            item_id: The new one; an item not seen before gets a row.
        """
        row = self._row_of(item_id)
        before = [self._row_of(earlier) for earlier in history]
        for distance, earlier in enumerate(reversed(before[-TRANSITION_WINDOW:]), start=1):
            if earlier != row:
                self._new_transitions[earlier][row] = self._new_transitions[earlier].get(row, 0.0) + 1 / distance
                self._mass[earlier] += np.float32(1 / distance)
        distinct = set(before)
        if row in distinct:
            return
        self._users[row] += 1
        for earlier in distinct:
            self._new_together[earlier][row] = self._new_together[earlier].get(row, 0.0) + 1
            self._new_together[row][earlier] = self._new_together[row].get(earlier, 0.0) + 1

    def _row_of(self, item_id: ItemId) -> int:
        row = self._row.get(item_id)
        if row is None:
            row = len(self._ids)
            self._ids.append(item_id)
            self._row[item_id] = row
            self._mass = np.append(self._mass, np.float32(0))
            self._users = np.append(self._users, np.float32(0))
        return row


class Trending:
    """Exponentially decayed counts of interactions per item.

    Counts are kept relative to a fixed origin and only grow, so an event costs one addition, and who leads is kept up to date by comparing
    the one item that grew.

    Args:
        half_life_s: Seconds after which an interaction counts half, > 0.
        origin: A time not long before the first event.
    """

    def __init__(self, *, half_life_s: float, origin: datetime) -> None:
        self._half_life_s = half_life_s
        self._origin_s = origin.timestamp()
        self._counts: dict[ItemId, float] = {}
        self._leaders: list[ItemId] = []

    def observe(self, item_id: ItemId, occur_time: datetime, weight: float = 1.0) -> None:
        """Counts one interaction, in any order of time. `weight` is >= 0."""
        exponent = (occur_time.timestamp() - self._origin_s) / self._half_life_s
        if exponent > 500:  # near the end of float range: move the origin
            self._shift(exponent)
            exponent = 0.0
        self._counts[item_id] = self._counts.get(item_id, 0.0) + weight * 2.0 ** max(exponent, -1000.0)
        self._promote(item_id)

    def _shift(self, exponent: float) -> None:
        self._counts = {item: scaled for item, count in self._counts.items() if (scaled := count * 2.0**-exponent) > 1e-30}
        self._origin_s += exponent * self._half_life_s
        self._leaders = [item for item in self._leaders if item in self._counts]

    def _promote(self, item_id: ItemId) -> None:
        """Puts the item that grew in its place among the leaders."""
        leaders = self._leaders
        if item_id in leaders:
            leaders.remove(item_id)
        elif len(leaders) == _LEADERS and self._place(item_id) > self._place(leaders[-1]):
            return
        insort(leaders, item_id, key=self._place)
        del leaders[_LEADERS:]

    def _place(self, item_id: ItemId) -> tuple[float, ItemId]:
        return -self._counts[item_id], item_id

    def top(self, k: int) -> tuple[ItemId, ...]:
        """Returns the k items that trend most, ties by id. Up to 200 cost nothing; more sort all."""
        return tuple(self._leaders[:k] if k <= _LEADERS else sorted(self._counts, key=self._place)[:k])

    def shares(self, item_ids: Sequence[ItemId]) -> FloatArray:
        """Returns each item's count relative to the leader's, float32, in [0, 1]."""
        leader = self._counts[self._leaders[0]] if self._leaders else 0.0
        if leader <= 0:
            return np.zeros(len(item_ids), np.float32)
        return np.fromiter((self._counts.get(item, 0.0) / leader for item in item_ids), np.float32, len(item_ids))


def freshness(created_s: NDArray[np.float64], now_s: float, *, half_life_s: float = FRESH_HALF_LIFE_S) -> FloatArray:
    """Returns 1 for an item created now, half a half-life later, 0 for one without a time; float32, in [0, 1].

    Args:
        created_s: Epoch seconds, -inf for an item without a time.
        now_s: Epoch seconds.
        half_life_s: Seconds after which an item is half as fresh, > 0.
    """
    return np.asarray(np.exp2(-np.maximum(now_s - created_s, 0) / half_life_s), np.float32)
