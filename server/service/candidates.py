"""Candidates from every source, and their features.

Shapes: N rows of the index, C candidates, F ranker features.
"""

from __future__ import annotations

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
from server.retrieval.sources import SparseScores
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


@dataclass(frozen=True, slots=True)
class Candidates:
    """Items to rank, with the ranker's input."""

    item_ids: tuple[ItemId, ...]
    features: FloatArray
    """float32, (C, F)."""

    @classmethod
    def of(
        cls,
        catalogue: Catalogue,
        view: IndexView,
        user: UserVector,
        history: Sequence[Interaction],
        rows: IntArray,
        *,
        sparse: SparseScores | None = None,
    ) -> Candidates:
        """Returns the candidates in these rows of the view, with their features."""
        item_ids = tuple(view.ids(rows))
        sparse = catalogue.sparse.fold_in(history) if sparse is None else sparse
        found = view.rows_of(sparse.item_ids)
        transitions, cosine = np.zeros(view.rows, np.float32), np.zeros(view.rows, np.float32)
        transitions[found[found >= 0]] = sparse.transitions[found >= 0]
        cosine[found[found >= 0]] = sparse.cosine[found >= 0]
        popularity = catalogue.popularity
        features = feature_matrix(
            user.contributions(view.vectors(rows)),
            transitions=transitions[rows],
            cosine=cosine[rows],
            popularity=np.fromiter((popularity.get(item_id, 0.0) for item_id in item_ids), np.float32, len(item_ids)),
            trending=catalogue.trending.shares(item_ids),
            freshness=catalogue.fresh.freshness(item_ids, datetime.now(UTC)),
            history_length=len(history),
        )
        return cls(item_ids, features)


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


def gather(
    catalogue: Catalogue, view: IndexView, user: UserVector, history: Sequence[Interaction], eligible: BoolArray, *, limit: int, seen: bool
) -> Candidates:
    """Returns the union of what every source names, and as many popular items as it takes to fill the list.

    Args:
        catalogue: What is chosen from.
        view: Its index at the moment of the request.
        user: The user's vector.
        history: The user's interactions, oldest first.
        eligible: bool, (N,): rows that may be shown.
        limit: Items wanted.
        seen: Whether items of the history may be shown.
    """
    allowed = eligible
    if history and not seen:
        allowed = eligible.copy()
        rows = view.rows_of([interaction.item_id for interaction in history])
        allowed[rows[(rows >= 0) & (rows < len(allowed))]] = False
    sparse = catalogue.sparse.fold_in(history)
    named: list[IntArray] = [
        view.rows_of(sparse.best(max(_SPARSE, 2 * limit))),
        view.rows_of(catalogue.trending.top(_TRENDING)),
        view.rows_of(catalogue.fresh.top(_FRESH)),
        view.rows_of(catalogue.most_popular[: max(_POPULAR, 2 * limit)]),
    ]
    query = user.query
    if query.any():
        named.append(view.search_now(query[None], max(_DENSE, 2 * limit), where=allowed).rows[0])
    rows = np.unique(np.concatenate(named))
    rows = rows[(rows >= 0) & (rows < len(allowed))]
    rows = rows[allowed[rows]]
    if len(rows) < limit:
        rest = np.flatnonzero(allowed)
        rows = np.concatenate([rows, np.setdiff1d(rest, rows)[: limit - len(rows)]])
    return Candidates.of(catalogue, view, user, history, rows, sparse=sparse)


def similar_candidates(
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
    candidates = gather(catalogue, view, likeness, touched, eligible, limit=limit, seen=False)
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
