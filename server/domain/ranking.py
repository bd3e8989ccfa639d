"""The names and sizes that retrieval, ranking and training share."""

from __future__ import annotations

VIEWS = ("semantic", "collaborative", "sequential", "contextual")
"""Parts of the fused vector, in order."""

VIEW_DIMENSIONS = 384
"""Length of one view."""

VECTOR_DIMENSIONS = len(VIEWS) * VIEW_DIMENSIONS
"""Length of the fused vector: 1536."""

RANKER_FEATURES = (*VIEWS, "transitions", "cosine", "popularity", "trending", "freshness", "history_length")
"""Columns of the ranker's input, in order.

The views are inner products of the user's and the item's view before fusion weights; `transitions`, `cosine`, `popularity` and `trending`
are shares in [0, 1]; `freshness` is 1 for an item created now and halves with age; `history_length` is log1p of the user's events.
"""
