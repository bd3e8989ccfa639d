"""Events from the stream into Postgres and the profiles."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import date
from typing import Any

import redis.asyncio
from cachetools import TTLCache

from server.domain import Event, TenantId, UserId
from server.domain.history import subject_of
from server.retrieval.vectors import UNWANTED
from server.store import Database
from server.store.events import apply_events
from server.store.identities import identify
from server.store.sequences import AppliedEvents, RecentSequences, read_applied
from server.stream.codec import decode_event
from server.stream.consumer import StreamConsumer
from server.stream.event_log import EVENTS
from server.telemetry import EVENTS_APPLIED, EVENTS_DUPLICATE, logger
from server.worker.drain import StreamWorker, Tenants

Applied = Callable[[TenantId, AppliedEvents], Awaitable[None]]
"""Called after the commit with the events that were new, and what their users did before.

A crash in between skips it: for what may be missed once, such as live pushes."""

Touched = Callable[[TenantId, Sequence[UserId]], Awaitable[None]]
"""Called after the commit, and again if that was interrupted, with every user whose profile may have changed: for invalidation."""

_log = logger(__name__)


class EventHandler:
    """Applies events: once each to the table and the counters, then tells those who listen."""

    def __init__(self, database: Database, *, on_applied: Applied | None, on_touched: Touched | None) -> None:
        self._database = database
        self._on_applied = on_applied
        self._on_touched = on_touched
        self._recent = RecentSequences()
        self._months: TTLCache[date, bool] = TTLCache(1000, 60.0)

    def decode(self, value: Any) -> Event:
        """Returns the event of a JSON value, or raises ValueError."""
        return decode_event(value)

    async def apply(self, tenant_id: TenantId, records: Sequence[Event]) -> None:
        """Commits events in one transaction. Those known are passed over."""
        async with self._database.tenant(tenant_id) as connection:
            identified = await identify(connection, tenant_id, records)
            applied = await apply_events(connection, tenant_id, identified, months=self._months)
            told = None
            if self._on_applied is not None:
                told = await read_applied(connection, tenant_id, applied, unwanted=UNWANTED, recent=self._recent)
        if told is not None:
            self._recent.keep(tenant_id, told)
        EVENTS_APPLIED.labels(tenant_id).inc(len(applied))
        EVENTS_DUPLICATE.labels(tenant_id).inc(len(records) - len(applied))
        try:
            # Also for events that were known: their first delivery may have died right after its commit.
            if self._on_touched is not None:
                touched = {subject_of(event) for event in identified} | {
                    UserId(event.anonymous_id) for event in records if event.anonymous_id
                }
                await self._on_touched(tenant_id, sorted(touched))
            if self._on_applied is not None and told is not None and applied:
                await self._on_applied(tenant_id, told)
        except Exception as error:  # noqa: BLE001  # the events are committed; a listener's trouble must not hold them back
            _log.warning("listener_failed", tenant=tenant_id, error=repr(error))


def event_worker(
    client: redis.asyncio.Redis,
    database: Database,
    tenants: Tenants,
    *,
    name: str,
    on_applied: Applied | None = None,
    on_touched: Touched | None = None,
    reclaim_idle_s: float = 5.0,
) -> StreamWorker[Event]:
    """Returns the worker that drains the tenants' event streams into the database.

    Args:
        client: Redis, with a timeout of at least 2 s.
        database: Migrated.
        tenants: Lists the tenants.
        name: Unique among living workers. A restart under the same name resumes at once, under another after `reclaim_idle_s`.
        on_applied: See `Applied`.
        on_touched: See `Touched`.
        reclaim_idle_s: Seconds after which another worker's unfinished entries are taken over.
    """
    consumer = StreamConsumer(client, stream=EVENTS, name=name, reclaim_idle_s=reclaim_idle_s)
    return StreamWorker(consumer, EventHandler(database, on_applied=on_applied, on_touched=on_touched), tenants)
