"""The demo catalogue: vendors of every category in every city."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from server.demo.text import business_name, describe
from server.demo.world import CATEGORIES, CITIES, NEIGHBOURS, SEASONS, STYLES, VENUE_KINDS, Category, City
from server.domain import Item, ItemId

TASTE_DIMENSIONS = 4
"""Length of the hidden taste vectors: what couples see in pictures and no attribute tells."""

_BAND_PRICE = (0.12, 0.3, 0.52, 0.85)
"""Where in a category's usual prices a band lies, 0 the lowest and 1 the highest; bands 1 to 4."""


@dataclass(frozen=True, slots=True)
class Vendor:
    """An item with what only the generator knows of it."""

    item: Item
    category: Category
    city: City
    style: str
    second_style: str
    band: int
    """Price band, 1 the cheapest to 4."""
    capacity: int
    """Largest party; 0 where the party's size does not matter."""
    rating: float
    fame: float
    """How often couples come across it, beyond what fits them; about standard normal."""
    taste: tuple[float, ...]
    open_from: datetime | None
    open_until: datetime | None


def _price(choose: random.Random, category: Category, city: City, band: int) -> float:
    share = min(max(_BAND_PRICE[band - 1] + choose.uniform(-0.09, 0.09), 0.0), 1.0)
    price = (category.price_from + share * (category.price_to - category.price_from)) * city.cost
    step = 50 if price >= 1000 else 10 if price >= 200 else 1
    return float(max(round(price / step) * step, 1))


def _price_words(choose: random.Random, price: float, category: Category, city: City) -> str:
    amount = f"{price:,.0f} {city.currency}"
    if category.unit == "guest":
        return choose.choice((f"Prices start at {amount} a guest", f"Allow {amount} per head", f"Around {amount} for each guest"))
    return choose.choice((f"Prices start at {amount}", f"Most couples spend about {amount}", f"Packages begin at {amount}"))


def _booked_days(choose: random.Random, now: datetime) -> list[str]:
    days = sorted({choose.randrange(7, 500) for _ in range(choose.randrange(2, 9))})
    return [(now + timedelta(days=day)).date().isoformat() for day in days]


def style_taste(seed: int, style: str) -> tuple[float, ...]:
    """Returns the centre of a style's taste, the same for vendors and couples of one seed."""
    choose = random.Random(f"{seed}:style:{style}")  # noqa: S311  # invented data, no secret
    return tuple(choose.gauss(0.0, 1.0) for _ in range(TASTE_DIMENSIONS))


def _vendor(seed: int, now: datetime, category: Category, city: City, number: int, taken: set[str]) -> Vendor:
    choose = random.Random(f"{seed}:vendor:{category.name}:{city.name}:{number}")  # noqa: S311
    style = STYLES[(number + STYLES.index(choose.choice(STYLES))) % len(STYLES)]
    second = choose.choice(NEIGHBOURS[style])
    kinds: Sequence[str] = VENUE_KINDS[style] if category.name == "venue" and choose.random() < 0.75 else category.kinds
    kind = choose.choice(kinds)
    band = choose.choices((1, 2, 3, 4), (3, 4, 3, 1.5))[0]
    price = _price(choose, category, city, band)
    capacity = choose.choice((40, 60, 80, 100, 120, 150, 180, 220, 300)) if category.seats else 0
    rating = round(min(max(choose.gauss(4.45, 0.32), 3.1), 5.0), 1)
    seasons = [season for season in SEASONS if season == "summer" or choose.random() < 0.75]
    name = business_name(choose, category, city, taken)
    best = choose.choice(seasons)
    slots = {
        "name": name,
        "kind": kind,
        "quarter": choose.choice(city.quarters),
        "city": city.name,
        "country": city.country,
        "light": city.light,
        "capacity": str(capacity or choose.choice((80, 120, 150))),
        "price_words": _price_words(choose, price, category, city),
        "season": best,
        "other_season": choose.choice([season for season in SEASONS if season != best]),
        "yearly": str(choose.randrange(12, 60)),
    }
    attributes: dict[str, Any] = {
        "city": city.name,
        "country": city.country,
        "quarter": slots["quarter"],
        "style": style,
        "styles": [style, second],
        "kind": kind,
        "price_band": band,
        "price_unit": category.unit,
        "rating": rating,
        "review_count": int(choose.paretovariate(1.1) * 6) % 400,
        "season": seasons,
        "outdoor": style in {"garden", "coastal", "rustic", "bohemian"} and choose.random() < 0.8,
        "booked_days": _booked_days(choose, now),
    }
    if capacity:
        attributes |= {"capacity": capacity, "capacity_min": capacity // 5}
    # Most vendors have been there throughout; some closed, some are new, and couples only meet those that are open.
    fate = choose.random()
    open_from = now - timedelta(days=choose.randrange(5, 150)) if fate > 0.94 else None
    open_until = now - timedelta(days=choose.randrange(10, 200)) if fate < 0.03 else now + timedelta(days=choose.randrange(400, 1100))
    item = Item(
        item_id=ItemId(f"{category.name.replace('_', '-')}-{city.name.lower()}-{number:03d}"),
        title=name,
        description=describe(choose, category.name, style, slots),
        categories=(category.name, kind),
        attributes=attributes,
        price=price,
        currency=city.currency,
        language="en",
        available_from=open_from,
        available_until=open_until,
    )
    centre, own = style_taste(seed, style), style_taste(seed, second)
    taste = tuple(0.7 * a + 0.3 * b + choose.gauss(0.0, 0.5) for a, b in zip(centre, own, strict=True))
    return Vendor(item, category, city, style, second, band, capacity, rating, choose.gauss(0.0, 1.0), taste, open_from, open_until)


def vendors(seed: int, now: datetime, a_city: int) -> dict[tuple[str, str], list[Vendor]]:
    """Returns the vendors by category and city, `a_city` of them in each."""
    taken: set[str] = set()
    return {
        (category.name, city.name): [_vendor(seed, now, category, city, number, taken) for number in range(a_city)]
        for category in CATEGORIES
        for city in CITIES
    }
