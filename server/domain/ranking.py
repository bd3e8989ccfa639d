"""The names and sizes that retrieval, ranking and training share."""

from __future__ import annotations

VIEWS = ("semantic", "collaborative", "sequential", "contextual")
"""Parts of the fused vector, in order."""

VIEW_DIMENSIONS = 384
"""Length of one view."""

VECTOR_DIMENSIONS = len(VIEWS) * VIEW_DIMENSIONS
"""Length of the fused vector: 1536."""

RANKED_FEATURES = ("semantic", "collaborative", "sequential", "transitions", "cosine", "regression", "popularity")
"""Features whose rank among the request's candidates is a feature too."""

RANKER_FEATURES = (
    *VIEWS,
    "transitions",
    "cosine",
    "regression",
    "popularity",
    "trending",
    "freshness",
    "history_length",
    *(f"{name}_rank" for name in RANKED_FEATURES),
    "price_fit",
    "distance_fit",
    "category_affinity",
)
"""Columns of the ranker's input, in order.

The views are inner products of the user's and the item's view before fusion weights; `transitions`, `cosine`, `popularity` and `trending`
are shares in [0, 1]; `regression` estimates whether the user has the item, >= 0; `freshness` is 1 for an item created now and halves with
age; `history_length` is log1p of the user's events; a rank is 1 / (1 + candidates that have more); the last three say how price, place and
categories fit the user, in [0, 1], 0 where unknown.
"""
