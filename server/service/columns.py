"""Facts of a catalogue's items as arrays over the rows of its index, so that a request looks nothing up item by item.

Shapes: N rows of a view, M items of the sparse source.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from server.domain import ItemId
from server.retrieval.filters import Filter, compile_filter
from server.retrieval.sources import SparseSource, Trending
from server.retrieval.view import IndexView

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

_TRENDING_ITEMS = 1000
_TRENDING_AGE_S = 1.0


@dataclass(frozen=True, slots=True)
class RowColumns:
    """Of one view. Dead rows hold zeros and are in no order."""

    popularity: FloatArray
    """(N,): share of the most popular item's users, in [0, 1]."""
    by_popularity: IntArray
    """Rows with a share, the most popular first, ties by id."""
    created_s: NDArray[np.float64]
    """(N,): epoch seconds; -inf for content blocks and dead rows."""
    by_age: IntArray
    """Rows with a time, the newest first, ties by id."""


@dataclass(frozen=True, slots=True)
class TrendingColumn:
    """What trends, at a moment."""

    shares: FloatArray
    """(N,): relative to the leader, in [0, 1]; 0 past the first 1000."""
    leaders: IntArray
    """Rows, the strongest first."""


class Columns:
    """Keeps the arrays of the newest view; an older view asks for its own, which is rare."""

    def __init__(self, popularity: Mapping[ItemId, float], sparse: SparseSource, trending: Trending) -> None:
        self._popularity = popularity
        self._sparse = sparse
        self._trending = trending
        self._kept: tuple[int, RowColumns] | None = None
        self._kept_sparse: tuple[int, IntArray] | None = None
        self._kept_trending: tuple[int, float, TrendingColumn] | None = None
        self._kept_eligible: tuple[int, int, BoolArray] | None = None

    def of(self, view: IndexView) -> RowColumns:
        """Returns the arrays over the rows of a view. Made anew after a write, in some 10 ms for 20,000 items."""
        if self._kept is None or self._kept[0] != view.version:
            self._kept = (view.version, self._build(view))
        return self._kept[1]

    def sparse_rows(self, view: IndexView) -> IntArray:
        """Returns the row of each item of the sparse source, (M,); -1 for one that is not here. Items that the source gained are added."""
        items = self._sparse.item_ids
        kept = self._kept_sparse[1] if self._kept_sparse is not None and self._kept_sparse[0] == view.version else np.zeros(0, np.int64)
        if len(kept) < len(items):
            kept = np.concatenate([kept, view.rows_of(items[len(kept) :])])
            self._kept_sparse = (view.version, kept)
        return kept

    def trending(self, view: IndexView) -> TrendingColumn:
        """Returns what trends, at most a second old."""
        now = time.monotonic()
        kept = self._kept_trending
        if kept is None or kept[0] != view.version or now - kept[1] > _TRENDING_AGE_S:
            leaders = self._trending.top(_TRENDING_ITEMS)
            rows = view.rows_of(leaders)
            shares = np.zeros(view.rows, np.float32)
            shares[rows[rows >= 0]] = self._trending.shares(leaders)[rows >= 0]
            kept = self._kept_trending = (view.version, now, TrendingColumn(shares, rows[rows >= 0]))
        return kept[2]

    def eligible(self, view: IndexView, where: str) -> BoolArray:
        """Returns which rows may be shown to anybody, as `eligible_mask` does. Not to be written to: without a filter it is remembered.

        Raises:
            FilterSyntaxError: The filter does not parse.
        """
        if where.strip():
            return eligible_mask(view, where)
        minute = int(time.time()) // 60
        kept = self._kept_eligible
        if kept is None or kept[:2] != (view.version, minute):
            kept = self._kept_eligible = (view.version, minute, eligible_mask(view, ""))
        return kept[2]

    def _build(self, view: IndexView) -> RowColumns:
        live = np.flatnonzero(view.live)
        items = view.items(live)
        popularity = np.zeros(view.rows, np.float32)
        created = np.full(view.rows, -np.inf)
        for row, item in zip(live.tolist(), items, strict=True):
            if not item.content_type:
                popularity[row] = self._popularity.get(item.item_id, 0.0)
                created[row] = item.create_time.timestamp() if item.create_time else 0.0
        ids = np.array([item.item_id for item in items])
        return RowColumns(
            popularity=popularity,
            by_popularity=_ordered(live, ids, popularity[live], popularity[live] > 0),
            created_s=created,
            by_age=_ordered(live, ids, created[live], np.isfinite(created[live])),
        )


def _ordered(
    rows: IntArray, ids: NDArray[np.str_], values: NDArray[np.float32] | NDArray[np.float64], chosen: NDArray[np.bool_]
) -> IntArray:
    """Returns the chosen rows by falling value, ties by id."""
    places = np.flatnonzero(chosen)
    order: IntArray = rows[places[np.lexsort((ids[places], -values[places]))]]
    return order


def eligible_mask(view: IndexView, where: str) -> BoolArray:
    """Returns which rows may be shown, (N,): recommended items, available now, that pass the caller's filter.

    Raises:
        FilterSyntaxError: The filter does not parse.
    """
    minute = int(time.time()) // 60  # masks are remembered by expression, so the clock moves a minute at a time
    mask = view.mask(_available(minute))
    return mask & view.mask(compile_filter(where)) if where.strip() else mask


@lru_cache(maxsize=8)
def _available(minute: int) -> Filter:
    now = datetime.fromtimestamp(minute * 60, UTC).isoformat()
    return compile_filter(f'NOT content_type:* AND NOT available_from > "{now}" AND NOT available_until <= "{now}"')
