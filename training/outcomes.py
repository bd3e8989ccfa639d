"""What came of lists that were shown: each event is put down to the list that led to it."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from server.domain.ids import ItemId, UserId

HORIZON_S = 24 * 3600.0
"""Seconds after a list within which an event may be its outcome."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One list as its user saw it."""

    user_id: UserId
    time_s: float
    """Seconds since 1970."""
    items: tuple[ItemId, ...]
    context: Mapping[str, str] = field(default_factory=dict)


class Happened(NamedTuple):
    """One event on an item."""

    user_id: UserId
    item_id: ItemId
    worth: float
    time_s: float


def outcomes(shown: Sequence[Shown], events: Iterable[Happened]) -> list[dict[ItemId, float]]:
    """Returns what was done with each list: item -> worth of the best thing done with it; empty for a list that nothing came of.

    An event belongs to the user's newest list before it that showed the item, if that is at most `HORIZON_S` old: so it counts once. An
    event at the moment of a list was not caused by it. Events worth nothing are no outcome.

    Args:
        shown: In any order.
        events: In any order.
    """
    lists: defaultdict[tuple[UserId, ItemId], list[tuple[float, int]]] = defaultdict(list)
    for place, one in enumerate(shown):
        for item_id in dict.fromkeys(one.items):
            lists[one.user_id, item_id].append((one.time_s, place))
    for places in lists.values():
        places.sort()
    result: list[dict[ItemId, float]] = [{} for _ in shown]
    for event in events:
        places = lists.get((event.user_id, event.item_id), [])
        before = bisect_left(places, (event.time_s, -1))
        if before and event.worth > 0 and event.time_s - places[before - 1][0] <= HORIZON_S:
            found = result[places[before - 1][1]]
            found[event.item_id] = max(found.get(event.item_id, 0.0), event.worth)
    return result
