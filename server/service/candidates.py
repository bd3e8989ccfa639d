"""Candidates from every source, and their features.

Shapes: N rows of the index, C candidates, F ranker features.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from server.domain import Interaction, Item, ItemId
from server.domain.ranking import RANKER_FEATURES, VIEW_DIMENSIONS, VIEWS
from server.retrieval.affinity import HISTORY_DECAY, NOTHING_STATED, Affinities, ItemFacts, Wishes
from server.retrieval.fusion import feature_matrix
from server.retrieval.pool import DENSE, POPULAR, REGRESSED, SPARSE, first, sparse_strength, strongest
from server.retrieval.shares import SparseShares
from server.retrieval.sources import freshness
from server.retrieval.vectors import SEMANTIC, UserVector, recency_weights
from server.retrieval.view import IndexView
from server.service.catalogue import Catalogue

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]

_TRENDING = 50
_FRESH = 50


@dataclass(frozen=True, slots=True)
class Request:
    """What every source is asked with: one view of the index, one user."""

    catalogue: Catalogue
    view: IndexView
    user: UserVector
    history: Sequence[Interaction]
    shares: SparseShares
    """Of rows of the view."""
    stated: Wishes

    @classmethod
    def of(
        cls, catalogue: Catalogue, view: IndexView, user: UserVector, history: Sequence[Interaction], stated: Wishes = NOTHING_STATED
    ) -> Request:
        """Returns the request with the sparse source folded in."""
        shares = catalogue.sparse.fold_in(history)
        places = catalogue.columns.sparse_rows(view)[shares.rows]
        return cls(catalogue, view, user, history, shares.moved(places, view.rows), stated)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Items to rank, with the ranker's input."""

    item_ids: tuple[ItemId, ...]
    features: FloatArray
    """float32, (C, F)."""

    @classmethod
    def of(cls, request: Request, rows: IntArray) -> Candidates:
        """Returns the candidates in these rows of the view, with their features."""
        columns, shares = request.catalogue.columns.of(request.view), request.shares.at(rows)
        features = feature_matrix(
            request.user.contributions_of(request.view.store.vectors, request.view.slots_of(rows)),
            transitions=shares.transitions,
            cosine=shares.cosine,
            regression=shares.regression,
            popularity=columns.popularity[rows],
            trending=request.catalogue.columns.trending(request.view).shares[rows],
            freshness=freshness(columns.created_s[rows], time.time()),
            history_length=len(request.history),
            affinities=_affinities(request, rows),
        )
        return cls(tuple(request.view.ids(rows)), features)


def _affinities(request: Request, rows: IntArray) -> Affinities:
    view, history = request.view, request.history
    touched = view.rows_of([interaction.item_id for interaction in history])
    slots = np.where(touched >= 0, view.slot_of[touched] if len(view.slot_of) else touched, -1)
    weights = recency_weights([interaction.event_type for interaction in history], HISTORY_DECAY)
    return ItemFacts(view.store.columns, view.slots).affinities(view.slot_of[rows].astype(np.int64), slots, weights, request.stated)


async def gather(request: Request, allowed: BoolArray, *, limit: int) -> Candidates:
    """Returns the union of what every source names among what may be shown, and as many more as it takes to fill the list.

    Args:
        request: Who asks, and of what.
        allowed: bool, (N,): rows that may be shown to this user.
        limit: Items wanted.
    """
    view, columns, shares = request.view, request.catalogue.columns.of(request.view), request.shares
    named = [
        strongest(shares.rows, sparse_strength(shares.transitions, shares.cosine), allowed, max(SPARSE, 2 * limit)),
        strongest(shares.rows, shares.regression, allowed, max(REGRESSED, 2 * limit)),
        first(request.catalogue.columns.trending(view).leaders, allowed, _TRENDING),
        first(columns.by_age, allowed, _FRESH),
        first(columns.by_popularity, allowed, max(POPULAR, 2 * limit)),
        await _dense(request, allowed, max(DENSE, 2 * limit)),
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
    return await request.catalogue.index.nearest(request.view, query, k, where=allowed)


async def similar_candidates(
    catalogue: Catalogue, view: IndexView, item_id: ItemId, eligible: BoolArray, *, limit: int
) -> tuple[Candidates, FloatArray]:
    """Returns what resembles an item, and how much, (C,): the sum of the views' products with the item's own vector, and of the cosine.

    Each term is at most 1, so text, taste, plain facts and shared users count alike: the semantic views, whose lengths tell how much is
    chosen of what reads like that, are compared by direction. What merely follows the item is not like it, so transitions do not count.
    """
    vector = view.vectors(view.rows_of([item_id]))[0]
    views = vector.reshape(len(VIEWS), VIEW_DIMENSIONS).copy()
    views[0] /= max(float(np.linalg.norm(views[0])), 1e-9)
    likeness = UserVector(views, np.ones(len(VIEWS), np.float32), history_length=1)
    touched = (Interaction(item_id, "click", datetime.now(UTC)),)
    others = eligible.copy()
    others[view.rows_of([item_id])] = False
    candidates = await gather(Request.of(catalogue, view, likeness, touched), others, limit=limit)
    columns = [RANKER_FEATURES.index(name) for name in (*VIEWS, "cosine")]
    scores = candidates.features[:, columns]
    lengths = np.linalg.norm(view.vectors(view.rows_of(candidates.item_ids))[:, SEMANTIC], axis=1)
    scores[:, 0] /= np.maximum(lengths, 1e-9)
    return candidates, scores.sum(axis=1)


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
