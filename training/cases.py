"""Held-out interactions that a model can be asked for, and the candidates of one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.data import Interactions


def draw_cases(fitted: Interactions, held_out: Interactions, cases: int, *, seed: int) -> list[tuple[int, int]]:
    """Returns at most `cases` users with a history and an item each that came after it and was new to them, drawn with `seed`."""
    if cases <= 0:
        return []
    generator = np.random.default_rng(seed)
    chosen: list[tuple[int, int]] = []
    for place in generator.permutation(len(held_out.users)).tolist():
        user, item = int(held_out.users[place]), int(held_out.items[place])
        start, end = fitted.starts[user], fitted.starts[user + 1]
        if end > start and held_out.weights[place] > 0 and item not in fitted.items[start:end]:
            chosen.append((user, item))
            if len(chosen) == cases:
                break
    return chosen


def best_rows(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Returns the rows of the `count` best scores, of all where there are fewer, in no order."""
    if len(scores) <= count:
        return np.arange(len(scores))
    return np.argpartition(-scores, count)[:count]
