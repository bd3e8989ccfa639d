"""Puts the demo world together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from server.demo.blocks import content_blocks
from server.demo.couples import couple
from server.demo.journeys import journey
from server.demo.vendors import vendors
from server.demo.world import CATEGORIES, CITIES
from server.domain import Event, Item, Profile
from server.errors import InvalidFieldError

VENDORS_A_CITY = 20
"""Vendors of one category in one city, unless asked otherwise: 2,240 in all."""


@dataclass(frozen=True, slots=True)
class Demo:
    """Everything the demo tenant holds."""

    items: list[Item]
    users: list[Profile]
    events: list[Event]
    """Oldest first."""


def couples_with_journeys(
    size: int, seed: int, now: datetime, *, vendors_a_city: int = VENDORS_A_CITY, start: int = 0
) -> tuple[list[Item], Iterator[tuple[Profile, list[Event]]]]:
    """Returns the catalogue, and lazily each couple from number `start` with its events, oldest first. Memory does not grow with `size`.

    Raises:
        InvalidFieldError: A number is negative or zero, or `now` has no time zone.
    """
    if size < 1:
        raise InvalidFieldError("size", "must be at least 1 couple")
    if vendors_a_city < 1:
        raise InvalidFieldError("vendors_a_city", "must be at least 1")
    if now.tzinfo is None:
        raise InvalidFieldError("now", "needs a time zone")
    market = vendors(seed, now, vendors_a_city)
    items = [
        market[category.name, city.name][number].item for category in CATEGORIES for city in CITIES for number in range(vendors_a_city)
    ]

    def lazily() -> Iterator[tuple[Profile, list[Event]]]:
        for number in range(start, size):
            one = couple(seed, number, now)
            yield one.profile, journey(seed, one, market, now)

    return items + content_blocks(), lazily()


def generate(size: int, seed: int, now: datetime) -> Demo:
    """Returns `size` couples, their events before `now`, and the catalogue they chose from. About 2 s for 1,000 couples.

    Raises:
        InvalidFieldError: `size` is below 1, or `now` has no time zone.
    """
    items, pairs = couples_with_journeys(size, seed, now)
    users, events = [], []
    for profile, happened in pairs:
        users.append(profile)
        events.extend(happened)
    events.sort(key=lambda event: (event.occur_time, event.event_id))
    return Demo(items, users, events)
