"""How many users have an item, those of long ago counting less.

Shapes: E interactions, N items.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.data import Interactions

FloatArray: TypeAlias = NDArray[np.float32]

NEVER = 0.0
HALF_LIVES = (NEVER, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
"""Shares of all interactions after which a user of an item counts half. Not days: a tenant's quiet months do not make it forget."""


def popularities(wanted: Interactions) -> Mapping[float, FloatArray]:
    """Returns for each half-life the users of each item relative to the most popular one's, float32, (N,), in [0, 1].

    A user's newest interaction with the item counts. Ages compare times across users, so all but `NEVER` mean something only where
    `Interactions.has_real_times` says that they do.

    Args:
        wanted: Interactions of weight > 0.
    """
    # Ordered by user and time, so the last place of a pair is its newest.
    pairs = wanted.pairs()
    _, from_end = np.unique(pairs[::-1], return_index=True)
    newest = len(pairs) - 1 - from_end
    items, ordered = wanted.items[newest], np.sort(wanted.times)
    ages = (len(ordered) - np.searchsorted(ordered, wanted.times[newest], side="right")) / max(len(ordered), 1)  # share that is newer
    found = {}
    for half_life in HALF_LIVES:
        weights = None if half_life == NEVER else np.exp2(-ages / half_life)
        counts = np.bincount(items, weights, minlength=wanted.item_count)
        found[half_life] = (counts / max(float(counts.max(initial=0.0)), 1e-30)).astype(np.float32)
    return found
