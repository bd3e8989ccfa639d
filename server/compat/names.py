"""Names of others, in the form that Aisle takes."""

from __future__ import annotations

import re

_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[0-9])(?=[A-Z][a-z])")
_NO_WORD = re.compile(r"[^a-z0-9]+")
_LONGEST = 64


def snake(name: str) -> str:
    """Returns `category_l1` for `categoryL1`, `CATEGORY_L1` and `category_l1`."""
    return _HUMP.sub("_", name).lower()


def event_type_of(name: str) -> str:
    """Returns the event type of an event's name: lower-case words joined by underscores, such as `add_to_cart` for `AddToCart`.

    Empty if no letter or digit of ASCII is in it; cut after 64 characters.
    """
    words = _NO_WORD.sub("_", snake(name)).strip("_")
    return (f"e_{words}" if words[:1].isdigit() else words)[:_LONGEST]
