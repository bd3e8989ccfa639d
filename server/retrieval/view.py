"""One moment of an index, for reading.

Shapes: B queries, N rows, S slots, D embedding dimensions, C candidates, K results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from server.domain import Item, ItemId
from server.errors import InvalidFieldError
from server.retrieval.filters import Filter
from server.retrieval.nearest import CodeIndex
from server.retrieval.scan import BoolArray, FloatArray, IntArray, exact_scores, ranked, scan
from server.retrieval.slots import SlotStore, checked_vectors

MAX_RESULTS = 10_000
"""Largest k."""

_FEW = 256
"""Allowed rows, beyond 4 k, that are scored one by one rather than found through codes."""

Where = Filter | BoolArray | None
"""What restricts a search: a filter, or one boolean a row (shorter than the view's rows: the rest is excluded), or nothing."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Ranked rows of each query."""

    rows: IntArray
    """(B, K), best first; -1 where a query has fewer results."""
    scores: FloatArray
    """(B, K), inner products; -inf where a query has fewer results."""
    ids: tuple[tuple[ItemId, ...], ...]
    """B tuples of at most K item ids, best first. Equal scores are ordered by item id."""


@dataclass(frozen=True, eq=False)
class IndexView:
    """What an index holds at one moment: every method answers for that moment, whatever is written meanwhile. Needs no lock.

    **Rows and generations.** An item has one row number for its life, over changes of its vector or fields, and new items get new
    numbers at the end. Only when many rows are dead are rows numbered anew, and `generation` grows by one. So an array aligned with the
    rows of an older view of the same generation stays right and at most lacks the newest rows; keep it with `(generation, rows)` and
    extend it. Dead rows stay in place: `live` tells.
    """

    store: SlotStore
    generation: int
    version: int
    """Grows by one with every write."""
    slots: int
    """Slots of the store that this view sees."""
    slot_of: NDArray[np.int32]
    """(N,): each row's slot, -1 for a dead row."""
    alive: BoolArray
    """(S,): which slots hold an item's present state."""
    row_ids: list[ItemId] = field(repr=False)
    """Row -> id; longer than N when rows were added later."""
    row_by_id: dict[ItemId, int] = field(repr=False)
    """Id -> row, dead rows included; also holds rows added later."""
    codes: CodeIndex | None = None
    """Compressed codes of the first slots; None: every search is exact."""

    @property
    def dimension(self) -> int:
        """D."""
        return self.store.dimension

    @property
    def rows(self) -> int:
        """N: rows numbered so far in this generation, dead ones included."""
        return len(self.slot_of)

    @cached_property
    def live(self) -> BoolArray:
        """Which rows hold an item, (N,)."""
        return self.slot_of >= 0

    @cached_property
    def _count(self) -> int:
        return int(np.count_nonzero(self.live))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Item]:
        return (self.store.columns.items[slot] for slot in self.slot_of[self.live].tolist())

    def __contains__(self, item_id: ItemId) -> bool:
        return self._row(item_id) >= 0

    def _row(self, item_id: ItemId) -> int:
        row = self.row_by_id.get(item_id, -1)
        return row if 0 <= row < self.rows and self.slot_of[row] >= 0 else -1

    def item(self, item_id: ItemId) -> Item | None:
        """Returns an item by id, or None."""
        row = self._row(item_id)
        return None if row < 0 else self.store.columns.items[self.slot_of[row]]

    def items(self, rows: Sequence[int] | IntArray) -> list[Item]:
        """Returns the items of live rows."""
        return [self.store.columns.items[slot] for slot in self._slots_of(rows).tolist()]

    def ids(self, rows: Sequence[int] | IntArray) -> list[ItemId]:
        """Returns the ids of rows, dead ones included."""
        return [self.row_ids[row] for row in np.asarray(rows, np.int64).tolist()]

    def rows_of(self, ids: Sequence[ItemId]) -> IntArray:
        """Returns each id's row, (n,); -1 for an item that is not here."""
        rows = np.fromiter((self.row_by_id.get(item_id, -1) for item_id in ids), np.int64, len(ids))
        rows[rows >= self.rows] = -1
        rows[rows >= 0] = np.where(self.live[rows[rows >= 0]], rows[rows >= 0], -1)
        return rows

    def vectors(self, rows: Sequence[int] | IntArray) -> FloatArray:
        """Returns a copy of the vectors of live rows, (n, D).

        Raises:
            IndexError: A row is dead, or none of this view.
        """
        return np.take(self.store.vectors, self._slots_of(rows), axis=0)

    def _slots_of(self, rows: Sequence[int] | IntArray) -> NDArray[np.int32]:
        wanted = np.asarray(rows, np.int64)
        slots: NDArray[np.int32] = self.slot_of[wanted]
        if (slots < 0).any() or (wanted < 0).any():
            raise IndexError("a dead row has neither item nor vector; see IndexView.live")
        return slots

    def mask(self, where: Filter) -> BoolArray:
        """Returns which rows pass a filter, (N,); dead rows never do. The filter's evaluation is remembered."""
        passing = self.store.mask(where, self.slots)
        result = np.zeros(self.rows, np.bool_)
        result[self.live] = passing[self.slot_of[self.live]]
        return result

    def search_now(self, queries: FloatArray, k: int, *, where: Where = None) -> SearchResult:
        """Returns the k rows with the largest inner product for each query, on this thread.

        Exact while the index is small; beyond that the mean recall@100 is at least 0.98 (`nearest`), the scores are exact all the same.

        Args:
            queries: (B, D); a single vector (D,) counts as one query.
            k: Results a query, in [1, 10000]. Fewer come back if fewer rows pass.
            where: Restricts the search itself: no more is searched for and dropped.

        Raises:
            InvalidFieldError: A query has another length or is not finite, `k` is out of range, or a mask is longer than the rows.
        """
        vectors = np.asarray(queries)
        vectors = checked_vectors("vector", vectors[None, :] if vectors.ndim == 1 else vectors, self.dimension)
        if not 1 <= k <= MAX_RESULTS:
            raise InvalidFieldError("k", f"is {k}; send 1 to {MAX_RESULTS}")
        if len(vectors):
            self.store.note_query(vectors[-1].copy())
        return self._result(vectors, self._candidates(vectors, k, self._allowed(where)), k)

    def _allowed(self, where: Where) -> BoolArray:
        """Returns which slots may be found, (S,)."""
        if where is None:
            return self.alive
        if isinstance(where, Filter):
            return self.alive & self.store.mask(where, self.slots)
        if where.ndim != 1 or len(where) > self.rows:
            raise InvalidFieldError("mask", f"has {len(where)} rows; this view has {self.rows}")
        allowed = np.zeros(self.slots, np.bool_)
        chosen = self.slot_of[: len(where)][where]
        allowed[chosen[chosen >= 0]] = True
        return allowed

    def _candidates(self, queries: FloatArray, k: int, allowed: BoolArray) -> list[IntArray]:
        """Returns slots for each query that hold its k best."""
        vectors, max_norm = self.store.vectors[: self.slots], self.store.max_norm
        count = int(np.count_nonzero(allowed))
        if count * 4 < self.slots and (self.codes is None or count <= 4 * k + _FEW):
            few = np.flatnonzero(allowed)  # gathering a few rows costs less than scoring them all
            return [few[found] for found in scan(queries, vectors[few], None, k, max_norm)]
        if self.codes is None:
            return scan(queries, vectors, None if count == self.slots else allowed, k, max_norm)
        coded = self.codes.size
        inside = int(np.count_nonzero(allowed[:coded]))
        tail = scan(queries, vectors[coded:], allowed[coded:], k, max_norm)
        if not inside:
            return [coded + found for found in tail]
        head = self.codes.search(queries, k, None if inside == coded else allowed[:coded], inside / coded)
        return [np.concatenate([near, coded + new]) for near, new in zip(head, tail, strict=True)]

    def _result(self, queries: FloatArray, candidates: list[IntArray], k: int) -> SearchResult:
        best = [
            ranked(slots, exact_scores(query, self.store.vectors, slots), k, self._name)
            for query, slots in zip(queries, candidates, strict=True)
        ]
        width = max((len(slots) for slots, _ in best), default=0)
        rows = np.full((len(best), width), -1, np.int64)
        scores = np.full((len(best), width), -np.inf, np.float32)
        for place, (slots, values) in enumerate(best):
            rows[place, : len(slots)] = self.store.rows[slots]
            scores[place, : len(slots)] = values
        ids = tuple(tuple(self.row_ids[row] for row in self.store.rows[slots].tolist()) for slots, _ in best)
        return SearchResult(rows, scores, ids)

    def _name(self, slot: int) -> str:
        return self.row_ids[int(self.store.rows[slot])]
