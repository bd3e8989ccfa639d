"""Candidates from every source, and their features.

Shapes: N rows of the index, C candidates, F ranker features.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from server.domain import Interaction, Item, ItemId
from server.domain.ranking import RANKER_FEATURES, VIEW_DIMENSIONS, VIEWS
from server.retrieval.filters import Filter, compile_filter
from server.retrieval.fusion import feature_matrix
from server.retrieval.sources import freshness
from server.retrieval.vectors import UserVector
from server.retrieval.view import IndexView
from server.service.catalogue import Catalogue

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]

_DENSE = 300
_SPARSE = 300
_TRENDING = 50
_FRESH = 50
_POPULAR = 200
_COSINE_MIX = 0.5
_INLINE_ROWS = 4000
"""Rows up to which the dense search takes about a millisecond, less than it costs to move it off the event loop."""


@dataclass(frozen=True, slots=True)
class Request:
    """What every source is asked with: one view of the index, one user."""

    catalogue: Catalogue
    view: IndexView
    user: UserVector
    history: Sequence[Interaction]
    transitions: FloatArray
    """(N,): share of each row in what follows the history, 0 for most."""
    cosine: FloatArray
    """(N,): the same for what shares users with it."""

    @classmethod
    def of(cls, catalogue: Catalogue, view: IndexView, user: UserVector, history: Sequence[Interaction]) -> Request:
        """Returns the request with the sparse source folded in."""
        shares = catalogue.sparse.fold_in(history)
        rows = catalogue.columns.of(view).sparse_rows
        here = rows >= 0
        transitions, cosine = np.zeros(view.rows, np.float32), np.zeros(view.rows, np.float32)
        transitions[rows[here]] = shares.transitions[here]
        cosine[rows[here]] = shares.cosine[here]
        return cls(catalogue, view, user, history, transitions, cosine)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Items to rank, with the ranker's input."""

    item_ids: tuple[ItemId, ...]
    features: FloatArray
    """float32, (C, F)."""

    @classmethod
    def of(cls, request: Request, rows: IntArray) -> Candidates:
        """Returns the candidates in these rows of the view, with their features."""
        columns = request.catalogue.columns.of(request.view)
        features = feature_matrix(
            request.user.contributions(request.view.vectors(rows)),
            transitions=request.transitions[rows],
            cosine=request.cosine[rows],
            popularity=columns.popularity[rows],
            trending=request.catalogue.columns.trending(request.view).shares[rows],
            freshness=freshness(columns.created_s[rows], time.time()),
            history_length=len(request.history),
        )
        return cls(tuple(request.view.ids(rows)), features)


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


async def gather(request: Request, eligible: BoolArray, *, limit: int, seen: bool) -> Candidates:
    """Returns the union of what every source names among what may be shown, and as many more as it takes to fill the list.

    Args:
        request: Who asks, and of what.
        eligible: bool, (N,): rows that may be shown.
        limit: Items wanted.
        seen: Whether items of the history may be shown.
    """
    view, columns = request.view, request.catalogue.columns.of(request.view)
    allowed = eligible
    if request.history and not seen:
        allowed = eligible.copy()
        rows = view.rows_of([interaction.item_id for interaction in request.history])
        allowed[rows[rows >= 0]] = False
    named = [
        _strongest(request.transitions + np.float32(_COSINE_MIX) * request.cosine, allowed, max(_SPARSE, 2 * limit)),
        _first(request.catalogue.columns.trending(view).leaders, allowed, _TRENDING),
        _first(columns.by_age, allowed, _FRESH),
        _first(columns.by_popularity, allowed, max(_POPULAR, 2 * limit)),
        await _dense(request, allowed, max(_DENSE, 2 * limit)),
    ]
    rows = np.unique(np.concatenate(named))
    if len(rows) < limit:
        rest = np.flatnonzero(allowed)
        rows = np.concatenate([rows, np.setdiff1d(rest, rows)[: limit - len(rows)]])
    return Candidates.of(request, rows)


async def _dense(request: Request, allowed: BoolArray, k: int) -> IntArray:
    """Returns the rows nearest the user's vector."""
    query = request.user.query
    if not query.any():
        return np.zeros(0, np.int64)
    if request.view.rows <= _INLINE_ROWS:
        found = request.view.search_now(query[None], k, where=allowed)
    else:
        found = await asyncio.to_thread(request.view.search_now, query[None], k, where=allowed)
    rows: IntArray = found.rows[0]
    return rows[rows >= 0]


def _strongest(values: FloatArray, allowed: BoolArray, k: int) -> IntArray:
    """Returns the k allowed rows with the largest positive values, in no order."""
    rows = np.flatnonzero((values > 0) & allowed)
    return rows if len(rows) <= k else rows[np.argpartition(values[rows], len(rows) - k)[len(rows) - k :]]


def _first(order: IntArray, allowed: BoolArray, k: int) -> IntArray:
    """Returns the first k allowed rows of an order."""
    start, found = 0, order[:0]
    step = 4 * k
    while len(found) < k and start < len(order):
        part = order[start : start + step]
        found = np.concatenate([found, part[allowed[part]]])
        start, step = start + step, 4 * step
    return found[:k]


async def similar_candidates(
    catalogue: Catalogue, view: IndexView, item_id: ItemId, eligible: BoolArray, *, limit: int
) -> tuple[Candidates, FloatArray]:
    """Returns what resembles an item, and how much, (C,): the sum of the views' products with the item's own vector, and of the cosine.

    Each term is at most 1, so text, taste, plain facts and shared users count alike. What merely follows the item is not like it, so
    transitions do not count.
    """
    vector = view.vectors(view.rows_of([item_id]))[0]
    views = vector.reshape(len(VIEWS), VIEW_DIMENSIONS)
    likeness = UserVector(views, np.ones(len(VIEWS), np.float32), history_length=1)
    touched = (Interaction(item_id, "click", datetime.now(UTC)),)
    candidates = await gather(Request.of(catalogue, view, likeness, touched), eligible, limit=limit, seen=False)
    columns = [RANKER_FEATURES.index(name) for name in (*VIEWS, "cosine")]
    return candidates, candidates.features[:, columns].sum(axis=1)


def content_candidates(catalogue: Catalogue, view: IndexView, user: UserVector, content_type: str) -> list[tuple[Item, float]]:
    """Returns the content blocks of a type that are available, each with its fit: the weighted product with the user's vector."""
    now = datetime.now(UTC)
    found = [item for item in catalogue.content.get(content_type, {}).values() if item.item_id in view and _is_available(item, now)]
    if not found:
        return []
    vectors = view.vectors(view.rows_of([item.item_id for item in found]))
    return list(zip(found, (vectors @ user.query).tolist(), strict=True))


def _is_available(item: Item, now: datetime) -> bool:
    return (item.available_from is None or item.available_from <= now) and (item.available_until is None or now < item.available_until)
