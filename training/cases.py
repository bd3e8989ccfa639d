"""Held-out interactions that a model can be asked for, and the candidates of one."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from training.data import Interactions

OF_A_USER = 8
"""Cases drawn of one user: more are much alike, so they cost time and make gains look surer than they are."""

_WORTH_A_LOOK = 128
"""Scores for each that is wanted from which it pays to rule out most by the highest of each stretch, and that may be left then."""
_STRETCHES = 8
"""Stretches for each score that is wanted."""


def few_of_each(users: NDArray[np.int64], most: int) -> NDArray[np.bool_]:
    """Returns which places, (n,), are among the first `most` of their user."""
    order = np.argsort(users, kind="stable")
    ordered = users[order]
    few = np.empty(len(users), np.bool_)
    few[order] = np.arange(len(users)) - np.searchsorted(ordered, ordered) < most
    return few


def draw_cases(fitted: Interactions, held_out: Interactions, cases: int, *, seed: int) -> list[tuple[int, int]]:
    """Returns at most `cases` users with a history and an item each that came after it and was new to them, drawn with `seed`.

    A user comes at most `OF_A_USER` times.
    """
    if cases <= 0:
        return []
    generator = np.random.default_rng(seed)
    chosen: list[tuple[int, int]] = []
    drawn: Counter[int] = Counter()
    for place in generator.permutation(len(held_out.users)).tolist():
        user, item = int(held_out.users[place]), int(held_out.items[place])
        start, end = fitted.starts[user], fitted.starts[user + 1]
        if end > start and held_out.weights[place] > 0 and drawn[user] < OF_A_USER and item not in fitted.items[start:end]:
            chosen.append((user, item))
            drawn[user] += 1
            if len(chosen) == cases:
                break
    return chosen


def best_rows(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Returns the rows of the `count` best scores, of all where there are fewer, in no order.

    Costs little more than reading the scores once, unless scores at the cut are equal: which of them are taken is up to numpy.
    """
    if len(scores) <= count:
        return np.arange(len(scores))
    if len(scores) >= _WORTH_A_LOOK * count and len(rows := _likely_best(scores, count)) <= _WORTH_A_LOOK * count:
        values = scores[rows]
        best: NDArray[np.int64] = rows[values >= np.partition(values, len(rows) - count)[len(rows) - count]]
        if len(best) == count:
            return best
    return np.argpartition(-scores, count)[:count]


def _likely_best(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Returns all rows with a score that `count` stretches of the scores reach: the best `count` are among them."""
    stretch = len(scores) // (_STRETCHES * count)
    highest = np.maximum.reduceat(scores, np.arange(0, len(scores), stretch))
    least = np.partition(highest, len(highest) - count)[len(highest) - count]
    return np.flatnonzero(scores >= least)
