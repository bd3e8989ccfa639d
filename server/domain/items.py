"""Items: what is recommended. Content blocks are items too, told apart by `content_type`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from server.domain.ids import ItemId


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing in a tenant's catalogue."""

    item_id: ItemId
    title: str
    description: str = ""
    categories: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """JSON object; filters reach into it as `attributes.city`."""
    content_type: str = ""
    """Empty for what is recommended; `hero_banner`, `cta_buttons` … for content blocks, which only personalization chooses from."""
    price: float | None = None
    currency: str = ""
    language: str = ""
    available_from: datetime | None = None
    available_until: datetime | None = None
    create_time: datetime | None = None
    update_time: datetime | None = None


def item_text(item: Item) -> str:
    """Returns the text that stands for an item in the semantic view: title, description, categories."""
    categories = ", ".join(item.categories)
    parts = [item.title, item.description, categories if categories != item.title else ""]
    return ". ".join(part for part in parts if part)
