"""Interactions of any size with something to learn in them: popular items, habitual steps, tastes that drift.

Shapes: E interactions, U users, N items.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.data import Interactions

EVENT_TYPES = ("purchase", "view")
"""Behind `Interactions.kinds`."""

_MEDIAN_LENGTH = 12.0
_LENGTH_SPREAD = 1.0
_LONGEST = 2000
_STEPS = 4
"""Items that usually follow one."""
_HABIT = 0.6
"""Share of steps to one of them."""
_TASTE = 0.3
"""Share of steps to an item of the current taste; the rest is popularity."""
_DRIFT = 0.05
"""Chance of another taste, at each step."""
_TASTES = 64

IntArray = NDArray[np.int64]


def generate(events: int, items: int, *, seed: int = 0) -> Interactions:
    """Returns exactly `events` interactions with `items` items; the same for the same arguments.

    Users' lengths are log-normal (median 12). The popularity of items is Zipf's with exponent 1. A step leads to one of four items that
    follow the last one (.6), to one of the user's current taste (.3), or to any (.1). Costs O(events + items).

    Args:
        events: At least 1.
        items: At least 1.
        seed: Of everything.
    """
    generator = np.random.default_rng(seed)
    lengths = _lengths(events, generator)
    walk = _Walk(items, generator)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = np.empty(events, np.int64)
    order = np.argsort(-lengths, kind="stable")  # who is still walking comes first
    walking = np.searchsorted(-lengths[order], -np.arange(int(lengths.max())), side="left")
    last, tastes = np.zeros(0, np.int64), generator.integers(0, _TASTES, len(lengths))
    for step, count in enumerate(walking.tolist()):
        last, tastes = walk.step(last[:count], tastes[:count], first=count if not step else 0)
        rows[starts[order[:count]] + step] = last
    users = np.repeat(np.arange(len(lengths)), lengths)
    gaps = np.exp(generator.normal(8.0, 2.0, events))
    times = np.cumsum(gaps)
    times += 1.6e9 - times[starts[:-1]][users]
    kinds = (generator.random(events) < 0.9).astype(np.int64)
    return Interactions(users, walk.names[rows], np.ones(events, np.float32), times, kinds, starts, items)


def _lengths(events: int, generator: np.random.Generator) -> IntArray:
    """Returns lengths that add up to `events`, (U,)."""
    drawn = np.exp(generator.normal(np.log(_MEDIAN_LENGTH), _LENGTH_SPREAD, max(16, events // 8)))
    lengths = np.clip(np.rint(drawn), 3, _LONGEST).astype(np.int64)
    ends = np.cumsum(lengths)
    users = int(np.searchsorted(ends, events)) + 1
    lengths = lengths[:users]
    lengths[-1] -= ends[users - 1] - events
    return np.asarray(lengths, np.int64)


class _Walk:
    """Where users go from item to item. Items are ranks by popularity here; `names` makes rows of them."""

    def __init__(self, items: int, generator: np.random.Generator) -> None:
        self._items, self._generator = items, generator
        self.names = generator.permutation(items)
        ranks = np.log(np.arange(items) + 10.0)
        # A permutation that stays near in rank keeps popularity what it is.
        self._next = np.stack([np.argsort(ranks + generator.normal(0, 0.7, items), kind="stable") for _ in range(_STEPS)])

    def _popular(self, count: int) -> IntArray:
        """Returns ranks drawn by Zipf's law with exponent 1, by the inverse of its continuous distribution."""
        drawn = np.exp(self._generator.random(count) * np.log(self._items + 1.0)) - 1.0
        return np.asarray(np.minimum(drawn.astype(np.int64), self._items - 1), np.int64)

    def step(self, last: IntArray, tastes: IntArray, *, first: int) -> tuple[IntArray, IntArray]:
        """Returns the next items and tastes of users; of `first` users who have none yet if that is not 0."""
        count = first or len(last)
        drawn = self._popular(count)
        tastes = np.where(self._generator.random(count) < _DRIFT, self._generator.integers(0, _TASTES, count), tastes[:count])
        choice = self._generator.random(count)
        liked = np.minimum(drawn - drawn % _TASTES + tastes, self._items - 1)
        usual = self._next[self._generator.integers(0, _STEPS, count), last] if not first else liked
        return np.select([choice < _HABIT, choice < _HABIT + _TASTE], [usual, liked], drawn), tastes
