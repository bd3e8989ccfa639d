"""Sources of candidates that need only counting: item-to-item, trending, freshness.

Shapes: N items, H interactions of a history, C candidates.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from server.domain.ids import ItemId
from server.domain.profiles import HISTORY_LIMIT, Interaction
from server.retrieval.pair_counts import PairCounts
from server.retrieval.shares import Binning, SparseShares
from server.retrieval.vectors import recency_weights

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]

_LEADERS = 200
"""Trending items kept in order."""

FRESH_HALF_LIFE_S = 14 * 86400.0

TRANSITION_WINDOW = 3
"""How many of a user's events before an item lead to it, the d-th counting 1/d."""

_UNIT = math.lcm(*range(1, TRANSITION_WINDOW + 1))
"""Parts of which every 1/d is a whole number."""


_OWN_BINS, _OWN_BINS_OF_ALL = 2, 16
"""Items for each count to be added up to which a sum for every item is cheaper: where few are wanted of it, and where all are."""


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


SparseScore: TypeAlias = Literal["transitions", "cosine", "regression"]
"""What the item-to-item source can be asked for."""

SPARSE_SCORES: tuple[SparseScore, ...] = ("transitions", "cosine", "regression")


_Entries: TypeAlias = tuple[NDArray[np.integer[Any]], NDArray[np.floating[Any]]]
"""What is to be added up by column: columns and values, (entries,) each."""


class SparseSource:
    """Directed transitions, cosine neighbours and regression weights of items, with what happened since the bundle was counted.

    Not thread-safe: `observe` and `fold_in` belong to one event loop. `observe` adds to an in-memory delta that holds at most
    `pair_counts.LIMIT` entries a kind, whatever happens; while nothing is pruned, there or in the bundle, the sums are exactly those of
    counting everything again. The rule is that of `training.counting`, a user's interactions of weight > 0 in order:

    - an interaction follows each of the `TRANSITION_WINDOW` before it, the d-th counting 1/d, if the items differ;
    - an item that is not among the `HISTORY_LIMIT` before it has one user more, and one in common with each distinct item among them.

    Regression weights stay those of the training: they come from an inverse, which no single event changes by a little.

    Args:
        item_ids: Item of each row.
        transitions: Counts of j following i.
        together: Counts of users who have both i and j.
        mass: float32, (N,): row sums of `transitions` before pruning.
        users: float32, (N,): users who have the item.
        regression: Weight of having i in the estimate of having j; of either sign.
        decays: Decay a step of a history's age for transitions, cosine and regression, each in (0, 1].
    """

    def __init__(
        self,
        item_ids: Sequence[ItemId],
        transitions: CsrCounts,
        together: CsrCounts,
        mass: FloatArray,
        users: FloatArray,
        *,
        regression: CsrCounts,
        decays: tuple[float, float, float],
    ) -> None:
        self._ids: list[ItemId] = list(item_ids)
        self._row = {item_id: row for row, item_id in enumerate(self._ids)}
        self._counted = len(self._ids)
        self._transitions, self._together = transitions, together
        self._mass = np.array(mass, np.float64)  # may have room for more rows, as `_users`
        self._users = np.array(users, np.float64)
        self._regression = regression
        self._decays = decays
        self._binning = Binning()
        self._new_transitions = PairCounts()  # in `_UNIT`ths, so that what is taken back leaves nothing behind
        self._new_together = PairCounts()

    @classmethod
    def empty(cls) -> SparseSource:
        """Returns the source of a tenant without a bundle: it knows only what it observes."""
        nothing = np.zeros(0, np.float32)
        none = CsrCounts.empty()
        return cls((), none, none, nothing, nothing, regression=none, decays=(0.8, 0.8, 0.8))

    def merge_on(self, executor: Executor) -> None:
        """Has what was observed sorted on another thread from now on, 50 ms now and then."""
        self._new_transitions.executor = self._new_together.executor = executor

    @property
    def item_ids(self) -> Sequence[ItemId]:
        """The item of each row; grows at the end."""
        return self._ids

    def fold_in(self, history: Sequence[Interaction], *, minimum_weight: float = 1e-3) -> SparseShares:
        """Returns the shares of all items, those of them that have any. Costs O(neighbours of the history), however many items there are.

        Args:
            history: Interactions, oldest first. Items nobody else touched lead nowhere.
            minimum_weight: Interactions whose weight relative to the newest is below it are left out: they cannot change the order.
        """
        kinds = [interaction.event_type for interaction in history]
        row = self._row.get
        rows = np.array([row(interaction.item_id, -1) for interaction in history], np.int64)
        weights = [recency_weights(kinds, decay) for decay in self._decays]
        return self._shares(rows, dict(zip(SPARSE_SCORES, weights, strict=True)), minimum_weight)

    def scores(self, history_rows: IntArray, weights: FloatArray, score: SparseScore) -> FloatArray:
        """Returns one of the scores of all items, float32, (N,), for bundle rows with given weights; for evaluation."""
        shares = self._shares(history_rows, {score: weights}, 0.0, own_bins=_OWN_BINS_OF_ALL)
        result = np.zeros(len(self._ids), np.float32)
        result[shares.rows] = getattr(shares, score)
        return result

    def _shares(
        self, rows: IntArray, weights: Mapping[SparseScore, FloatArray], minimum: float, *, own_bins: int = _OWN_BINS
    ) -> SparseShares:
        """Returns the shares that these interactions lead to; zeros of a score without weights."""
        entries = [(score, *part) for score, own in weights.items() for part in self._entries(score, rows, own, minimum)]
        binned = self._binning.of([columns for _, columns, _ in entries], len(self._ids), own_bins=own_bins)
        found: dict[SparseScore, FloatArray] = {}
        for part, (score, _, values) in enumerate(entries):
            sums = binned.sums(part, values)
            found[score] = found[score] + sums if score in found else sums
        if "cosine" in found:
            found["cosine"] /= np.maximum(np.sqrt(self._users.take(binned.rows)), 1e-9).astype(np.float32)
        for score, sums in found.items():
            # Pruned counts may be taken back, and an item that comes back 200 interactions later may meet another twice.
            np.clip(sums, 0, None if score == "regression" else 1, out=sums)
        nothing = np.zeros(len(binned.rows), np.float32)
        transitions, cosine, regression = (found.get(score, nothing) for score in SPARSE_SCORES)
        return SparseShares(binned.rows, transitions, cosine, regression)

    def _entries(self, score: SparseScore, rows: IntArray, weights: FloatArray, minimum: float) -> Sequence[_Entries]:
        """Returns what adds up to a score, of the bundle and of what happened since, before it is divided by what the candidates have."""
        total = float(weights.sum())
        keep = (rows >= 0) & (weights > minimum * weights.max(initial=0.0))
        rows, weights = rows[keep], weights[keep]
        counted = rows < self._counted
        if score == "regression":
            return (_spread(self._regression, rows[counted], weights[counted]),)
        if total <= 0 or not len(rows):
            return ()
        cosine = score == "cosine"
        matrix, delta = (self._together, self._new_together) if cosine else (self._transitions, self._new_transitions)
        norms = np.sqrt(self._users[rows]) if cosine else self._mass[rows]
        scaled = weights / (np.maximum(norms, 1e-9) * total)
        old = _spread(matrix, rows[counted], scaled[counted])
        if not len(delta):
            return (old,)
        distinct, places = np.unique(rows, return_inverse=True)
        sums = np.bincount(places, scaled if cosine else scaled / _UNIT).astype(np.float32)
        return old, delta.gather(distinct, sums, len(self._ids))

    def observe(self, items: Sequence[ItemId], new: Sequence[int]) -> None:
        """Counts new interactions of one user: what is more with them than without.

        Costs O(HISTORY_LIMIT) for each. Exact for a user with at most `HISTORY_LIMIT` interactions, in whatever order they come; for one
        with more, if they come in the order of their times.

        Args:
            items: The user's interactions of weight > 0, oldest first: the new ones, and of the earlier ones the newest `HISTORY_LIMIT`
                or more, or all. An item not seen before gets a row.
            new: Places of the new ones in `items`, rising.
        """
        if not new:
            return
        found = list(map(self._row.get, items))
        rows = [self._row_of(item_id) for item_id in items] if None in found else cast("list[int]", found)
        self._observe_transitions(rows, new)
        known = list(rows)
        for place in reversed(new):
            del known[place]
        for place in new:
            self._observe_user(rows[place], known[-HISTORY_LIMIT:])
            known.insert(place, rows[place])

    def _observe_transitions(self, rows: Sequence[int], new: Sequence[int]) -> None:
        """Adds the transitions of all these interactions, and takes back those of the ones known before. Beyond the window both agree."""
        start = max(new[0] - TRANSITION_WINDOW, 0)
        now = rows[start : new[-1] + TRANSITION_WINDOW + 1]
        fresh = {place - start for place in new}
        sums: dict[int, int] = {}
        for sequence, sign in ((now, _UNIT), ([row for place, row in enumerate(now) if place not in fresh], -_UNIT)):
            for distance in range(1, TRANSITION_WINDOW + 1):
                for earlier, later in zip(sequence, sequence[distance:], strict=False):
                    if earlier != later:
                        key = earlier << 32 | later
                        sums[key] = sums.get(key, 0) + sign // distance
        changed = {key: value for key, value in sums.items() if value}
        for key, value in changed.items():
            self._mass[key >> 32] += value / _UNIT
        self._new_transitions.add(np.fromiter(changed, np.int64, len(changed)), np.fromiter(changed.values(), np.float32, len(changed)))

    def _observe_user(self, row: int, before: Sequence[int]) -> None:
        distinct = set(before)
        if row in distinct:
            return
        self._users[row] += 1
        others = np.fromiter(distinct, np.int64, len(distinct))
        self._new_together.add(np.concatenate([others << 32 | row, row << 32 | others]), np.ones(2 * len(others), np.float32))

    def _row_of(self, item_id: ItemId) -> int:
        row = self._row.get(item_id)
        if row is None:
            row = self._row[item_id] = len(self._ids)
            self._ids.append(item_id)
            if row == len(self._mass):
                room = np.zeros(max(64, row // 8))
                self._mass, self._users = np.concatenate([self._mass, room]), np.concatenate([self._users, room])
        return row


def _spread(matrix: CsrCounts, rows: IntArray, weights: NDArray[np.floating[Any]]) -> _Entries:
    owners, columns, values = matrix.gather(rows)
    return columns, weights[owners] * values


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
