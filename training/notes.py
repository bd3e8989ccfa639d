"""What is odd about held-out files, in sentences: none of it is an error, all of it moves the figures.

Shapes: E interactions.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.data import Interactions

Flags: TypeAlias = NDArray[np.bool_]


def asked_notes(fitted: Interactions, asked: Interactions) -> list[str]:
    """Returns what of `asked` cannot be ranked well, counted. Both are rows of the same users and items."""
    counting = asked.select(asked.weights > 0)
    users, rows = np.unique(counting.users), len(counting.users)
    nothing = len(asked.users) - rows
    unknown_users = int((np.diff(fitted.starts)[users] == 0).sum())
    unknown_items = int((~np.isin(counting.items, fitted.items)).sum())
    known = int(_pairs_in(fitted, counting).sum())
    sentences = (
        (nothing, f"test rows of types that count nothing, such as hide: {nothing} of {len(asked.users)}; they are not asked for"),
        (unknown_users, f"test users without fitted rows: {unknown_users} of {len(users)}; they get the popular list"),
        (unknown_items, f"test rows of items without fitted rows: {unknown_items} of {rows}; only texts can rank them"),
        (known, f"test rows that repeat a fitted item of the user: {known} of {rows}; it is not ranked, so they are misses"),
    )
    return [sentence for count, sentence in sentences if count]


def overlap_notes(before: Interactions, held_out: Interactions) -> list[str]:
    """Returns a sentence on rows of the validation that train holds too, if there are any."""
    repeated = int(_rows_in(before, held_out).sum())
    if not repeated:
        return []
    return [f"validation rows that train holds too: {repeated} of {len(held_out.users)}; they choose nothing and are fitted twice"]


def _pairs_in(one: Interactions, other: Interactions) -> Flags:
    """Returns which rows of `other` have a user and item of a row of `one`, (E,)."""
    return np.isin(other.pairs(), one.pairs())


def _rows_in(one: Interactions, other: Interactions) -> Flags:
    """Returns which rows of `other` have user, item and time of a row of `one`, (E,)."""
    return np.isin(other.pairs() + 1j * other.times, one.pairs() + 1j * one.times)
