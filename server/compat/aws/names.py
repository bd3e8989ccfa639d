"""How AWS Personalize's names become Aisle's, the same way for what is written and for what is asked."""

from __future__ import annotations

from typing import Any

from server.compat.names import snake
from server.domain import Item


def resource_name(arn: str) -> str:
    """Returns the last part of an ARN, or the plain name that may stand in its place."""
    return arn.rpartition("/")[2].strip()


def column(item: Item, name: str) -> Any:
    """Returns what an item has in a column of its dataset, or None. Columns that are no field of items are attributes."""
    wanted = snake(name)
    if wanted in {"item_id", "title", "description", "price", "currency", "language"}:
        value = getattr(item, wanted)
        return None if value == "" else value
    if wanted == "categories":
        return list(item.categories) or None
    return item.attributes.get(wanted)
