"""What the ranker is taught to bring about: how much each kind of event is worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

from server.errors import InvalidFieldError
from server.retrieval.vectors import action_weight

Worth: TypeAlias = Callable[[str], float]
"""Event type -> worth of one such event, >= 0."""

_FIELD = "goal_weights"
_MADE_BY_LISTS = "impression"
"""No goal unless it is listed: to show an item makes it happen."""


def parse_goal_weights(text: str) -> Worth:
    """Returns the worth of events as `click=1,save=2,book=4` says.

    A type that is not listed keeps its action weight; an impression has none.

    Raises:
        InvalidFieldError: An entry is no TYPE=NUMBER, a number is negative or not finite, or a type is given twice.
    """
    weights: dict[str, float] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, found, value = entry.partition("=")
        kind = name.strip().lower()
        number = _number(value)
        if not kind or not found or number is None:
            raise InvalidFieldError(_FIELD, f"has {entry!r}; write TYPE=NUMBER with a number >= 0, such as click=1,save=2,enquire=3,book=4")
        if kind in weights:
            raise InvalidFieldError(_FIELD, f"gives {kind!r} twice; keep one")
        weights[kind] = number
    if weights and not any(weights.values()):
        raise InvalidFieldError(_FIELD, "are all 0, so nothing is worth learning; give one type a positive number")
    return _worth(weights)


def _worth(weights: Mapping[str, float]) -> Worth:
    def worth(event_type: str) -> float:
        kind = event_type.lower()
        return weights[kind] if kind in weights else 0.0 if kind == _MADE_BY_LISTS else action_weight(kind)

    return worth


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


ANY_GOAL = parse_goal_weights("")
"""What events are worth where nobody says otherwise: click 1, save 2, enquire 3, book 4."""
