"""Takes in events, and tells what a user's history amounts to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from server.domain import Event, TenantId, UserId, consistency_token
from server.domain.behavior import BehaviorPatterns, behavior_patterns
from server.service.catalogues import Catalogues
from server.service.users import Users
from server.stream import EventLog


@dataclass(frozen=True, slots=True)
class Behavior:
    """Patterns, and whether the events of the request's token are in them."""

    patterns: BehaviorPatterns
    event_count: int
    engagement: dict[str, int]
    first_time: datetime | None
    last_time: datetime | None
    consistent: bool


class Events:
    """The use cases of EventService."""

    def __init__(self, log: EventLog, users: Users, catalogues: Catalogues) -> None:
        self._log = log
        self._users = users
        self._catalogues = catalogues

    async def ingest(self, tenant_id: TenantId, events: Sequence[Event]) -> str:
        """Appends events durably and returns the token that makes a reader see them.

        Raises:
            UnavailableError: The stream is down: nothing was acknowledged.
        """
        return consistency_token(tenant_id, await self._log.append(tenant_id, events))

    async def behavior(self, tenant_id: TenantId, user_id: UserId, *, token: str, deadline: float) -> Behavior:
        """Returns a user's behaviour patterns over the profile's history."""
        known = await self._users.known(tenant_id, user_id, token=token, deadline=deadline)
        catalogue = await self._catalogues.get(tenant_id)
        history = known.profile.history
        items = {one.item_id: catalogue.index.item(one.item_id) for one in history}
        categories = {item_id: item.categories for item_id, item in items.items() if item is not None}
        return Behavior(
            patterns=behavior_patterns(history, categories, now=datetime.now(UTC)),
            event_count=len(history),
            engagement=dict(known.profile.engagement_history),
            first_time=history[0].occur_time if history else None,
            last_time=history[-1].occur_time if history else None,
            consistent=known.consistent,
        )
