"""Makes a list from an order of scores: diversity, caps of vendors, a floor for new items, exploration. Pure: equal input, equal list.

Places are those of the order of scores, 0 for the best. Steps of a list are taken in the order named, each on what the one before left.

Shapes: C candidates, P of them in the pool of diversity, L numbers a likeness vector.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.domain.shaping import ShapingPolicy
from server.retrieval.diversity import diversified
from server.retrieval.exploration import explored

FloatArray: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What shaping looks at, by place. None where the policy does not ask for it."""

    scores: FloatArray
    """float32, (C,), falling."""
    likeness: FloatArray | None = None
    """float32, (P, L), of the first P places."""
    vendors: Sequence[Hashable] | None = None
    """(C,); None for an item without a vendor, which no cap holds back."""
    new: NDArray[np.bool_] | None = None
    """(C,)."""


@dataclass(frozen=True, slots=True)
class Shaped:
    """A list of places."""

    places: tuple[int, ...]
    propensities: tuple[float, ...] = ()
    """Of each item at its place, in (0, 1]; empty where nothing was random."""
    capped: int = 0
    """Items left out because their vendor had its share."""
    lifted: int = 0
    """New items that the order of scores would not have shown."""
    drawn: int = 0
    """Items that exploration put in."""


def shape(facts: Facts, limit: int, policy: ShapingPolicy, *, seed: int = 0) -> Shaped:
    """Returns the list: the first `limit` places where the policy is the default one, else as it says. Never shorter than without a policy.

    Args:
        facts: Of the candidates, best first.
        limit: Items wanted.
        policy: What to do.
        seed: Of exploration.
    """
    order = list(range(len(facts.scores)))
    if facts.likeness is not None and policy.diversity:
        pool = len(facts.likeness)
        order = diversified(facts.scores[:pool], facts.likeness, strength=policy.diversity, limit=limit) + order[pool:]
    caps = _Caps(facts.vendors, policy.vendor_cap)
    shown, rest = caps.fill(order, limit)
    capped = len(set(order[:limit]) - set(shown))
    lifted = 0
    if facts.new is not None and policy.new_item_share:
        shown, rest, lifted = _lift(shown, rest, facts.new, caps, policy.new_item_share)
    if not policy.exploration:
        return Shaped(tuple(shown), capped=capped, lifted=lifted)
    # What the floor gave to new items stays theirs, whatever the coins say.
    kept = facts.new if facts.new is not None and policy.new_item_share else np.zeros(len(order), np.bool_)
    slots = [slot for slot in range(_middle(shown), len(shown)) if not kept[shown[slot]]]
    found = explored(shown, caps.admit(rest, len(shown)), slots, epsilon=policy.exploration, seed=seed)
    return Shaped(found.places, found.propensities, capped, lifted, found.drawn)


def _middle(shown: Sequence[int]) -> int:
    """Returns the index that the lower half begins with; the first place is never in it."""
    return (len(shown) + 1) // 2


class _Caps:
    """How many items of each vendor a list holds, and may hold."""

    def __init__(self, vendors: Sequence[Hashable] | None, cap: int) -> None:
        self._vendors = vendors if cap else None
        self._cap = cap
        self._held: Counter[Hashable] = Counter()

    def admit(self, places: Sequence[int], limit: int) -> list[int]:
        """Returns the first places, at most `limit`, that no cap holds back, and counts them."""
        if self._vendors is None:
            return list(places[:limit])
        admitted: list[int] = []
        for place in places:
            if len(admitted) == limit:
                break
            vendor = self._vendors[place]
            if vendor is None or self._held[vendor] < self._cap:
                self._held[vendor] += 1
                admitted.append(place)
        return admitted

    def fill(self, order: Sequence[int], limit: int) -> tuple[list[int], list[int]]:
        """Returns the list and the rest, in order. What a cap held back fills the list where too little is left."""
        shown = self.admit(order, limit)
        if self._vendors is None:
            return shown, list(order[limit:])
        chosen = set(shown)
        rest = [place for place in order if place not in chosen]
        missing = limit - len(shown)
        for place in rest[:missing]:
            self._held[self._vendors[place]] += 1
        return shown + rest[:missing], rest[missing:]


def _lift(shown: list[int], rest: list[int], new: NDArray[np.bool_], caps: _Caps, share: float) -> tuple[list[int], list[int], int]:
    """Returns the list with at least `share` of new items, the rest, and how many came in.

    The best-scored new ones come in at even distances from the middle of the list down; as many others, the last ones, make room.
    """
    middle = _middle(shown)
    least = min(math.ceil(share * len(shown) - 1e-9), len(shown) - middle)  # 0.1 * 30 is a little more than 3
    missing = least - sum(bool(new[place]) for place in shown)
    if missing <= 0:
        return shown, rest, 0
    coming = caps.admit(sorted(place for place in rest if new[place]), missing)
    going = set([place for place in shown[middle:] if not new[place]][::-1][: len(coming)])
    lower = [place for place in shown[middle:] if place not in going]
    for index, place in enumerate(coming):
        lower.insert(index * (len(shown) - middle) // len(coming), place)
    came = set(coming)
    left = [place for place in shown if place in going] + [place for place in rest if place not in came]
    return shown[:middle] + lower, left, len(coming)
