"""Features that items and requests share, by name, for the contextual view.

An item and a request that agree on a named feature, such as `region=algarve`, add to each other's score. What is learned is how much the
axes of a request, such as `place`, count against each other; items' features have fixed weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from server.domain.items import Item
from server.domain.profiles import Profile

PLACE_KEYS = ("city", "region", "country")
_PLAIN_KEYS = ("season", "style", "brand", "setting", "stage", "language", "device")
AXES = ("category", "place", *_PLAIN_KEYS, "price", "party")
"""What stands before the = of a feature's name."""

_SEASONS = ("winter", "winter", "spring", "spring", "spring", "summer", "summer", "summer", "autumn", "autumn", "autumn", "winter")
_CAPACITY_KEYS = ("capacity", "max_guests", "guests")


def item_features(item: Item) -> dict[str, float]:
    """Returns the item's named features with their weights."""
    features: dict[str, float] = {}
    for category in item.categories:
        features[f"category={_word(category)}"] = 1.0 / math.sqrt(len(item.categories))
    for key in (*PLACE_KEYS, *_PLAIN_KEYS):
        for value in read_words(item.attributes.get(key)):
            features[f"{_axis(key)}={value}"] = 1.0
    if item.price is not None:
        features.update(_band("price", item.price))
    for key in _CAPACITY_KEYS:
        size = read_number(item.attributes.get(key))
        if size is not None:
            features.update(_band("party", size))
            break
    if item.language:
        features[f"language={_word(item.language)}"] = 0.5
    return features


def request_features(context: Mapping[str, Any], profile: Profile | None = None, *, now: datetime | None = None) -> dict[str, float]:
    """Returns the named features of a request: what the caller sent, completed by the profile's traits.

    Known keys: `city`, `region`, `country`, `season`, `style`, `brand`, `setting`, `language`, `device`, `category` (or `page`), `budget`,
    `party_size`, `stage`, `event_date` (RFC 3339; gives the season, and the stage `early`, `soon`, `last_month` or `past`, unless they are
    sent). Other keys are ignored, and so are values that cannot be read: context is a hint, never a reason to refuse.
    """
    known: dict[str, Any] = dict(profile.traits) if profile else {}
    known.update(context)
    features: dict[str, float] = {}
    for key in (*PLACE_KEYS, *_PLAIN_KEYS):
        for value in read_words(known.get(key)):
            features[f"{_axis(key)}={value}"] = 1.0
    for key in ("category", "page"):
        for value in read_words(known.get(key)):
            features[f"category={value}"] = 1.0
    for key, axis in (("budget", "price"), ("party_size", "party"), ("guests", "party")):
        size = read_number(known.get(key))
        if size is not None:
            features.update(_band(axis, size))
    date = _date(known.get("event_date")) or (profile.event_date if profile else None)
    if date is not None:
        _add_date(features, date, now or datetime.now(UTC))
    if profile is not None:
        _add_profile(features, profile)
    return features


def axis_of(name: str) -> str:
    """Returns the axis of a feature."""
    return name.partition("=")[0]


def weighed(features: Mapping[str, float], axes: Mapping[str, float]) -> dict[str, float]:
    """Returns a request's features, each times the weight of its axis; an axis that is not named counts 1."""
    return {name: weight * axes.get(axis_of(name), 1.0) for name, weight in features.items()}


def _add_profile(features: dict[str, float], profile: Profile) -> None:
    for category, weight in profile.preference_scores.items():
        name = f"category={_word(category)}"
        features[name] = max(features.get(name, 0.0), float(weight))
    if profile.locale:
        features[f"language={_word(profile.locale.split('-')[0].split('_')[0])}"] = 0.5


def _add_date(features: dict[str, float], date: datetime, now: datetime) -> None:
    months = ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).days / 30
    stage = "past" if months < 0 else "last_month" if months < 1 else "soon" if months < 6 else "early"
    for axis, value in (("season", _SEASONS[date.month - 1]), ("stage", stage)):
        if not any(name.startswith(f"{axis}=") for name in features):
            features[f"{axis}={value}"] = 1.0


def _axis(key: str) -> str:
    return "place" if key in PLACE_KEYS else key


def _band(axis: str, size: float) -> dict[str, float]:
    """Returns soft half-octave bands: neighbours share weight, so 990 and 1010 are close whatever the border between them."""
    place = 2 * math.log2(max(size, 1.0))
    low = math.floor(place)
    return {
        f"{axis}={low + step}": weight for step, weight in ((-1, 0.3), (0, 1 - (place - low) / 2), (1, 0.5 + (place - low) / 2), (2, 0.3))
    }


def read_words(value: Any) -> tuple[str, ...]:
    """Returns the texts of a value, casefolded; () for what is none."""
    if isinstance(value, str) and value:
        return (_word(value),)
    if isinstance(value, list | tuple):
        return tuple(_word(entry) for entry in value if isinstance(entry, str) and entry)
    return ()


def _word(value: str) -> str:
    return value.strip().casefold()


def read_number(value: Any) -> float | None:
    """Returns a value as a positive finite number, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _date(value: Any) -> datetime | None:
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str):
        return None
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        return None
