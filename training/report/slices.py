"""Splits a ranking into parts: by the user's history, by the target's popularity, by its age.

Shapes: U users, T targets of all users together, N items, E interactions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.data import Interactions
from training.metrics import Estimate, Metric, estimates
from training.ranks import Ranking

IntArray: TypeAlias = NDArray[np.int64]
FloatArray: TypeAlias = NDArray[np.float64]

HISTORY_FROM = (0, 1, 5, 10, 20, 50)
"""Least length of each bucket of histories."""

HISTORIES = ("none", "1-4", "5-9", "10-19", "20-49", "50 or more")
POPULARITIES = ("head", "torso", "tail", "never seen")
AGE_FROM_DAYS = (0.0, 7.0, 30.0, 90.0, 365.0)
"""Least age of each bucket of items."""

AGES = ("under 7 days", "7-29 days", "30-89 days", "90-364 days", "365 or more", "never seen")
_DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class Bucket:
    """One part of a slice."""

    label: str
    users: int
    targets: int
    results: Mapping[str, Mapping[str, Estimate]]
    """Contender -> metric -> estimate."""

    def to_json(self) -> dict[str, Any]:
        """Returns the bucket as the report writes it."""
        results = {name: {metric: found.to_json() for metric, found in row.items()} for name, row in self.results.items()}
        return {"label": self.label, "users": self.users, "targets": self.targets, "results": results}


def by_history(rankings: Mapping[str, Ranking], fitted: Interactions, metrics: Sequence[Metric]) -> list[Bucket]:
    """Returns a bucket for each range of history length that some user has."""
    users = _any(rankings).users
    places = np.searchsorted(HISTORY_FROM, np.diff(fitted.starts)[users], side="right") - 1  # (U,)
    return _buckets(rankings, HISTORIES, metrics, lambda ranking, place: ranking.of_users(places == place))


def by_popularity(rankings: Mapping[str, Ranking], fitted: Interactions, metrics: Sequence[Metric]) -> list[Bucket]:
    """Returns a bucket for each of head, torso, tail and never seen that some target is in."""
    thirds = popularity_thirds(np.bincount(fitted.items, minlength=fitted.item_count))
    return _by_target(rankings, POPULARITIES, metrics, thirds[_any(rankings).targets])


def by_age(rankings: Mapping[str, Ranking], fitted: Interactions, asked: Interactions, metrics: Sequence[Metric]) -> list[Bucket]:
    """Returns a bucket for each range of the target's age that some target is in."""
    ages = target_ages(_any(rankings), fitted, asked) / _DAY_S
    places = np.searchsorted(AGE_FROM_DAYS, np.maximum(ages, 0), side="right") - 1
    return _by_target(rankings, AGES, metrics, np.where(np.isnan(ages), len(AGES) - 1, places))


def popularity_thirds(counts: IntArray) -> IntArray:
    """Returns 0 for the head, 1 for the torso, 2 for the tail and 3 for items without interactions, (N,).

    The head is the fewest most popular items that have a third of all interactions, the torso the next that bring it to two thirds. Equal
    counts are ordered by row.

    Args:
        counts: (N,), interactions of each item.
    """
    order = np.lexsort((np.arange(len(counts)), -counts))
    before = np.concatenate([[0], np.cumsum(counts[order])[:-1]])  # interactions of the items ahead
    thirds = np.empty(len(counts), np.int64)
    thirds[order] = np.minimum(3 * before // max(int(counts.sum()), 1), 2)
    thirds[counts == 0] = 3
    return thirds


def target_ages(ranking: Ranking, fitted: Interactions, asked: Interactions) -> FloatArray:
    """Returns seconds from an item's first fitted interaction to its being asked for, (T,); NaN for one never seen."""
    first = np.full(fitted.item_count, np.inf)
    np.minimum.at(first, fitted.items, fitted.times)
    owners = np.repeat(ranking.users, np.diff(ranking.starts))
    keys, when = _first_times(asked)
    ages = when[np.searchsorted(keys, owners * asked.item_count + ranking.targets)] - first[ranking.targets]
    return np.where(np.isfinite(ages), ages, np.nan)


def _first_times(asked: Interactions) -> tuple[IntArray, FloatArray]:
    """Returns a sorted key of each distinct user and item, and when the user first took the item."""
    # Interactions are ordered by user and time, so the first place of a pair is its earliest.
    keys, places = np.unique(asked.pairs(), return_index=True)
    return keys, asked.times[places]


def _by_target(rankings: Mapping[str, Ranking], labels: Sequence[str], metrics: Sequence[Metric], places: IntArray) -> list[Bucket]:
    return _buckets(rankings, labels, metrics, lambda ranking, place: ranking.of_targets(places == place))


def _buckets(
    rankings: Mapping[str, Ranking], labels: Sequence[str], metrics: Sequence[Metric], cut: Callable[[Ranking, int], Ranking]
) -> list[Bucket]:
    buckets = []
    for place, label in enumerate(labels):
        parts = {name: cut(ranking, place) for name, ranking in rankings.items()}
        some = _any(parts)
        if len(some.users):
            buckets.append(Bucket(label, len(some.users), len(some.targets), _judged(parts, metrics)))
    return buckets


def _judged(parts: Mapping[str, Ranking], metrics: Sequence[Metric]) -> dict[str, dict[str, Estimate]]:
    """Returns the estimates of all contenders from the same resamples of users: drawing them is what takes the time."""
    found = iter(estimates(np.concatenate([part.values(metrics) for part in parts.values()], axis=1)))
    return {name: {metric.name: next(found) for metric in metrics} for name in parts}


def _any(rankings: Mapping[str, Ranking]) -> Ranking:
    """Returns one of the rankings: users and targets are the same in all."""
    return next(iter(rankings.values()))
