"""How an operator wants lists shaped once their items are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from server.domain.ids import ItemId
from server.domain.profiles import Interaction


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapingPolicy:
    """What is done to the order of scores, and what is kept out of it. The defaults leave the order alone.

    `server.settings.ShapingSettings` checks the ranges.
    """

    diversity: float = 0.0
    """Weight of unlikeness against score, in [0, 0.9]; 0: the order of scores."""
    new_item_share: float = 0.0
    """Least share of a list that new items get, in [0, 0.5]."""
    new_item_days: float = 14.0
    """Days that an item is new, > 0."""
    vendor_cap: int = 0
    """Most items of one vendor in a list; 0: any number."""
    vendor_path: tuple[str, ...] = ("vendor",)
    """Where an item's attributes name its vendor."""
    exploration: float = 0.0
    """Probability that a place of the list's lower half shows an item that the order would not, in [0, 0.5]."""
    booked: tuple[str, ...] = ("book", "booking", "purchase")
    """Event types, in lower case, after which an item is not recommended to its user any more."""
    repeatable: tuple[str, ...] = ()
    """Event types, in lower case, after which an item may be recommended again."""
    unwanted: tuple[str, ...] = ("hide", "dismiss")
    """Event types, in lower case, that take back what `repeatable` allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapingValues:
    """Settings of shaping as operators write them, by the names of `server.settings.ShapingSettings`; None where one is not set."""

    diversity: float | None = None
    vendor_cap: int | None = None
    vendor_attribute: str | None = None
    new_item_share: float | None = None
    new_item_days: float | None = None
    exploration: float | None = None
    booked_event_types: str | None = None
    repeatable_event_types: str | None = None

    def given(self) -> dict[str, float | int | str]:
        """Returns those that are set, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def over(self, policy: ShapingPolicy) -> ShapingPolicy:
        """Returns the policy with what is set in the place of its own."""
        values: dict[str, Any] = dict(self.given())
        if self.vendor_attribute is not None:
            values["vendor_path"] = tuple(values.pop("vendor_attribute").split(".")[1:])
        for name in ("booked", "repeatable"):
            words = values.pop(f"{name}_event_types", None)
            if words is not None:
                values[name] = tuple(sorted({word.strip().lower() for word in words.split(",") if word.strip()}))
        return replace(policy, **values)


def booked_items(history: Sequence[Interaction], policy: ShapingPolicy) -> set[ItemId]:
    """Returns the items that are never recommended: those with an event that books and is not repeatable."""
    final = set(policy.booked) - set(policy.repeatable)
    return {interaction.item_id for interaction in history if interaction.event_type.lower() in final}


def seen_items(history: Sequence[Interaction], policy: ShapingPolicy) -> set[ItemId]:
    """Returns the items that are not recommended unless the caller asks for what was seen.

    These are all of the history but those with a repeatable event. An unwanted event makes an item seen whatever else there was.
    """
    seen = {interaction.item_id for interaction in history}
    if not policy.repeatable:
        return seen
    again = {interaction.item_id for interaction in history if interaction.event_type.lower() in policy.repeatable}
    unwanted = {interaction.item_id for interaction in history if interaction.event_type.lower() in policy.unwanted}
    return seen - (again - unwanted)
