"""One moment of an index, for reading.

Shapes: B queries, N rows, S slots, D embedding dimensions, C candidates, K results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from server.domain import Item, ItemId
from server.errors import InvalidFieldError
from server.retrieval.filters import Filter
from server.retrieval.nearest import CodeIndex
from server.retrieval.scan import BoolArray, ranked, scan
from server.retrieval.slots import SlotStore, checked_vectors
from server.retrieval.vector_rows import FloatArray, IntArray

MAX_RESULTS = 10_000
"""Largest k."""

_FEW_SHARE = 4
"""Without codes, allowed rows are scored one by one when they are fewer than one in so many."""

_ROW_MASKS = 32
"""Filters' row masks that one view remembers."""

Where = Filter | BoolArray | None
"""What restricts a search: a filter, or one boolean a row (shorter than the view's rows: the rest is excluded), or nothing."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One query of several that are answered together."""

    query: FloatArray
    """(D,)."""
    k: int
    """Results wanted, in [1, 10000]."""
    where: Where = None
    """Restricts the search itself: no more is searched for and dropped."""


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
        return [self.store.columns.items[slot] for slot in self.slots_of(rows).tolist()]

    def ids(self, rows: Sequence[int] | IntArray) -> list[ItemId]:
        """Returns the ids of rows, dead ones included."""
        return [self.row_ids[row] for row in np.asarray(rows, np.int64).tolist()]

    def rows_of(self, ids: Sequence[ItemId]) -> IntArray:
        """Returns each id's row, (n,); -1 for an item that is not here."""
        rows = np.array(list(map(self.row_by_id.get, ids, repeat(-1))), np.int64)
        rows[rows >= self.rows] = -1
        if len(self.slot_of):
            rows[self.slot_of[rows] < 0] = -1  # the last row's for -1, which changes nothing
        return rows

    def vectors(self, rows: Sequence[int] | IntArray, part: slice = slice(None)) -> FloatArray:
        """Returns a copy of the vectors of live rows, or of a part of each, (n, D).

        Raises:
            IndexError: A row is dead, or none of this view.
        """
        return self.store.vectors.take(self.slots_of(rows), part)

    def slots_of(self, rows: Sequence[int] | IntArray) -> NDArray[np.int32]:
        """Returns the slots of live rows, (n,), for reading `store` itself.

        Raises:
            IndexError: A row is dead, or none of this view.
        """
        wanted = np.asarray(rows, np.int64)
        slots: NDArray[np.int32] = self.slot_of[wanted]
        if (slots < 0).any() or (wanted < 0).any():
            raise IndexError("a dead row has neither item nor vector; see IndexView.live")
        return slots

    def mask(self, where: Filter) -> BoolArray:
        """Returns which rows pass a filter, (N,), read-only; dead rows never do. The filter's evaluation is remembered."""
        known = self._row_masks.get(where)
        if known is not None:
            return known
        result = self._by_row(self.alive & self.store.mask(where, self.slots))
        result.flags.writeable = False
        if len(self._row_masks) >= _ROW_MASKS:
            self._row_masks.clear()
        self._row_masks[where] = result
        return result

    @cached_property
    def _row_masks(self) -> dict[Filter, BoolArray]:
        return {}

    @cached_property
    def _aligned(self) -> int:
        """Slots from the first on that are those of the rows of the same numbers."""
        return min(self.store.aligned, self.slots)

    def _by_row(self, slots: BoolArray) -> BoolArray:
        """Returns what holds for live slots, (S,), by row, (N,)."""
        result, aligned = np.zeros(self.rows, np.bool_), self._aligned
        result[:aligned] = slots[:aligned]
        later = aligned + np.flatnonzero(slots[aligned:])
        result[self.store.rows[later]] = True
        return result

    def _by_slot(self, rows: BoolArray) -> BoolArray:
        """Returns what holds for rows, (n,) with n at most N, by live slot, (S,)."""
        result, aligned = np.zeros(self.slots, np.bool_), self._aligned
        count = min(aligned, len(rows))
        np.logical_and(rows[:count], self.alive[:count], out=result[:count])
        owners = self.store.rows[aligned : self.slots]
        known = np.flatnonzero(self.alive[aligned:] & (owners < len(rows)))
        result[aligned + known] = rows[owners[known]]
        return result

    def search_now(self, queries: FloatArray, k: int, *, where: Where = None) -> SearchResult:
        """Returns the k rows with the largest inner product for each query, on this thread.

        Exact while the index is small; beyond that the mean recall@100 is at least 0.98 (`tuner`), the scores are exact all the same.

        Args:
            queries: (B, D); a single vector (D,) counts as one query.
            k: Results a query, in [1, 10000]. Fewer come back if fewer rows pass.
            where: Restricts the search itself: no more is searched for and dropped.

        Raises:
            InvalidFieldError: A query has another length or is not finite, `k` is out of range, or a mask is longer than the rows.
        """
        vectors = np.asarray(queries)
        return self.answer([Ask(query, k, where) for query in (vectors[None, :] if vectors.ndim == 1 else vectors)])

    def answer(self, asks: Sequence[Ask]) -> SearchResult:
        """Returns the best rows for each of several queries, each under its own filter; see `search_now`.

        Raises:
            InvalidFieldError: See `search_now`.
        """
        queries, allowed = self._checked(asks)
        best = [
            ranked(slots, self.store.vectors.products(query, slots), one.k, self._name)
            for one, query, slots in zip(asks, queries, self._candidates(queries, asks, allowed), strict=True)
        ]
        width = max((len(slots) for slots, _ in best), default=0)
        rows = np.full((len(best), width), -1, np.int64)
        scores = np.full((len(best), width), -np.inf, np.float32)
        for place, (slots, values) in enumerate(best):
            rows[place, : len(slots)] = self.store.rows[slots]
            scores[place, : len(slots)] = values
        ids = tuple(tuple([self.row_ids[row] for row in self.store.rows[slots].tolist()]) for slots, _ in best)
        return SearchResult(rows, scores, ids)

    def nearest(self, asks: Sequence[Ask]) -> list[IntArray]:
        """Returns for each query the same rows as `answer`, in no order: cheaper, where scores and order are not asked for.

        Raises:
            InvalidFieldError: See `search_now`.
        """
        queries, allowed = self._checked(asks)
        found = []
        for one, query, slots in zip(asks, queries, self._candidates(queries, asks, allowed), strict=True):
            best = slots
            if len(slots) > one.k:
                best = ranked(slots, self.store.vectors.products(query, slots), one.k, self._name)[0]
            found.append(self.store.rows[best].astype(np.int64))
        return found

    def _checked(self, asks: Sequence[Ask]) -> tuple[FloatArray, list[BoolArray]]:
        """Returns the queries, (B, D), and for each which slots may be found, (S,)."""
        if not asks:
            return np.empty((0, self.dimension), np.float32), []
        for one in asks:
            if not 1 <= one.k <= MAX_RESULTS:
                raise InvalidFieldError("k", f"is {one.k}; send 1 to {MAX_RESULTS}")
            if one.query.shape != (self.dimension,):
                checked_vectors("vector", one.query[None, :], self.dimension)
        queries = checked_vectors("vector", np.stack([one.query for one in asks]), self.dimension)
        self.store.note_query(queries[-1].copy())
        masks: dict[int, BoolArray] = {}
        for one in asks:
            if id(one.where) not in masks:
                masks[id(one.where)] = self._allowed(one.where)
        return queries, [masks[id(one.where)] for one in asks]

    def _allowed(self, where: Where) -> BoolArray:
        """Returns which slots may be found, (S,)."""
        if where is None:
            return self.alive
        if isinstance(where, Filter):
            return self.alive & self.store.mask(where, self.slots)
        if where.ndim != 1 or len(where) > self.rows:
            raise InvalidFieldError("mask", f"has {len(where)} rows; this view has {self.rows}")
        return self._by_slot(where)

    def _candidates(self, queries: FloatArray, asks: Sequence[Ask], allowed: Sequence[BoolArray]) -> list[IntArray]:
        """Returns slots for each query that hold its best: all that are allowed where these are few, else by codes, else by a scan."""
        counts = [int(np.count_nonzero(mask)) for mask in allowed]
        few = [self._few(one.k, count) for one, count in zip(asks, counts, strict=True)]
        found: list[IntArray] = [np.flatnonzero(mask) if small else np.empty(0, np.int64) for mask, small in zip(allowed, few, strict=True)]
        rest = [place for place, small in enumerate(few) if not small]
        if not rest:
            return found
        coded = 0 if self.codes is None else self.codes.size
        masks = [None if counts[place] == self.slots else allowed[place][coded:] for place in rest]
        ks = [asks[place].k for place in rest]
        scanned = scan(queries[rest], self.store.vectors, coded, self.slots, masks, ks, self.store.max_norm)
        for place, new in zip(rest, scanned, strict=True):
            near = self._coded(queries[place], asks[place].k, allowed[place], counts[place]) if coded else new[:0]
            found[place] = np.concatenate([near, new])
        return found

    def _few(self, k: int, count: int) -> bool:
        """Returns whether to score all allowed slots one by one."""
        return count * _FEW_SHARE < self.slots if self.codes is None else not self.codes.pays(k, count)

    def _coded(self, query: FloatArray, k: int, allowed: BoolArray, count: int) -> IntArray:
        """Returns slots among the coded ones that hold nearly all of the k best."""
        assert self.codes is not None
        coded = self.codes.size
        inside = count if count == self.slots else int(np.count_nonzero(allowed[:coded]))
        if not inside:
            return np.empty(0, np.int64)
        whole = inside >= coded
        return self.codes.search(query[None], k, None if whole else allowed[:coded], 1.0 if whole else inside / coded)[0]

    def _name(self, slot: int) -> str:
        return self.row_ids[int(self.store.rows[slot])]
