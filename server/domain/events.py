"""Behaviour events and the token that lets a reader demand them."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from server.domain.ids import EventId, ItemId, TenantId, UserId
from server.errors import InvalidFieldError

_ENTRY = re.compile(r"\d{1,20}-\d{1,20}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something a user did. Counted once per `event_id`, however often it is sent."""

    event_id: EventId
    user_id: UserId
    item_id: ItemId | None
    """None for events that concern no item, such as a page view."""
    event_type: str
    occur_time: datetime
    value: float = 1.0
    session_id: str = ""
    anonymous_id: str = ""
    properties: Mapping[str, Any] = field(default_factory=dict)


def consistency_token(tenant_id: TenantId, entry_ids: list[str]) -> str:
    """Returns the token for events appended to the tenant's stream as these entries: url-safe, opaque to callers."""
    return base64.urlsafe_b64encode("|".join([tenant_id, *entry_ids]).encode()).decode().rstrip("=")


def parse_consistency_token(token: str, tenant_id: TenantId) -> list[str]:
    """Returns the stream entries that a token names.

    Raises:
        InvalidFieldError: The token was not issued by Aisle, or for another tenant.
    """
    try:
        tenant, *entries = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode().split("|")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        tenant, entries = "", []
    if tenant != tenant_id or not entries or not all(_ENTRY.fullmatch(entry) for entry in entries):
        raise InvalidFieldError("consistency_token", "is not one that IngestEvents returned to this tenant; send it back unchanged")
    return entries
