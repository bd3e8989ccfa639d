"""What is known of a user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from server.domain.ids import EventId, ItemId, UserId

HISTORY_LIMIT = 200
"""Interactions a profile keeps, newest last. The sequential view reads no more."""


@dataclass(frozen=True, slots=True)
class Interaction:
    """One event of a user on one item, as the profile remembers it."""

    item_id: ItemId
    event_type: str
    occur_time: datetime
    value: float = 1.0
    event_id: EventId = EventId("")
    session_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A user's profile. Events write history and counts; callers write traits and preferences."""

    user_id: UserId
    traits: Mapping[str, Any] = field(default_factory=dict)
    locale: str = ""
    time_zone: str = ""
    event_date: datetime | None = None
    """The date that the user plans for, such as a wedding."""
    history: tuple[Interaction, ...] = ()
    """At most `HISTORY_LIMIT`, oldest first by `occur_time`, ties by arrival."""
    preference_scores: Mapping[str, float] = field(default_factory=dict)
    """Category -> weight in [0, 1], stated by the caller; the inferred ones are computed from history when asked."""
    engagement_history: Mapping[str, int] = field(default_factory=dict)
    """Event type -> events ever counted, beyond what `history` still holds."""
    version: int = 0
    """Grows by one with each write; the etag."""
    create_time: datetime | None = None
    update_time: datetime | None = None
