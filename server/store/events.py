"""Events: counted once by their id, read back as histories, exported for training."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, MutableMapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

import asyncpg
import orjson

from server.domain import Event, EventId, ItemId, TenantId, UserId
from server.domain.history import subject_of
from server.store.database import Connection
from server.store.staging import stage

# Rows of a small batch travel as one JSON text, in one round trip; those of a large one by COPY into a staging table (COPY into the table
# itself is refused where row-level security holds). From some 200 rows on COPY is cheaper: reading JSON takes the database 30 us a row.
# Keys go in by their order, so that two writers of the same events wait for each other instead of deadlocking.
_COLUMNS = "event_id, user_id, anonymous_id, item_id, event_type, occur_time, value, session_id, properties"
_INSERT_EVENTS = f"""
INSERT INTO events (tenant_id, {_COLUMNS})
SELECT $1, {_COLUMNS} FROM input JOIN fresh USING (event_id) ORDER BY place
RETURNING event_id
"""  # noqa: S608  # constants of ours
_INSERT_FEW = f"""
WITH input AS (
    SELECT * FROM ROWS FROM (json_to_recordset($2::text::json) AS (
        event_id text, user_id text, anonymous_id text, item_id text, event_type text, occur_time timestamptz, value double precision,
        session_id text, properties jsonb
    )) WITH ORDINALITY AS input ({_COLUMNS}, place)
), fresh AS (
    INSERT INTO event_keys (tenant_id, event_id) SELECT $1, event_id FROM input ORDER BY event_id
    ON CONFLICT DO NOTHING RETURNING event_id
)
{_INSERT_EVENTS}
"""  # noqa: S608  # as above
# ON CONFLICT writes each key three times to the log. Looking first and inserting plainly costs half, and fails with a unique violation when
# another writer is at the same events.
_INSERT_STAGED = f"""
WITH input AS (
    SELECT {_COLUMNS}, arrival AS place FROM {{staged}}
), fresh AS (
    INSERT INTO event_keys (tenant_id, event_id) SELECT $1, event_id FROM input
    WHERE NOT EXISTS (SELECT FROM event_keys AS known WHERE known.event_id = input.event_id AND known.tenant_id = $1) ORDER BY event_id
    RETURNING event_id
)
{_INSERT_EVENTS}
"""  # noqa: S608  # as above
_FEW = 200
_COUNT = """
INSERT INTO user_personalization_profiles AS profile (tenant_id, user_id, engagement_history, version)
SELECT $1, user_id, counts, 1 FROM json_to_recordset($2::text::json) AS input (user_id text, counts jsonb)
ON CONFLICT (tenant_id, user_id) DO UPDATE SET
    -- As `aisle_add_counts`, which as a function call for each row takes twice as long.
    engagement_history = profile.engagement_history || (
        SELECT jsonb_object_agg(key, coalesce((profile.engagement_history -> key)::bigint, 0) + value::bigint)
        FROM jsonb_each(excluded.engagement_history)
    ),
    version = profile.version + 1,
    update_time = now()
"""
_EXPORT = """
SELECT user_id, item_id, event_type, extract(epoch FROM occur_time)::float8, value FROM events
WHERE tenant_id = $1 AND item_id IS NOT NULL AND occur_time >= $2 AND occur_time < $3
ORDER BY user_id, occur_time, arrival
"""
BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
END = datetime(9999, 12, 31, tzinfo=UTC)


class ExportedInteraction(NamedTuple):
    """One event on an item, as training reads it."""

    user_id: UserId
    item_id: ItemId
    event_type: str
    occur_time_s: float
    """Seconds since 1970."""
    value: float


async def apply_events(
    connection: Connection, tenant_id: TenantId, events: Sequence[Event], *, months: MutableMapping[date, bool] | None = None
) -> list[Event]:
    """Stores the events that were never stored before, counts them in their users' profiles, and returns them in order.

    All or nothing with the caller's transaction, so an event is in the table exactly if it is in the counters. Two writers that meet take
    turns by event id, then by user id. Best in batches of hundreds to thousands: the round trips are at most ten, whatever the size.

    Args:
        connection: In the tenant's transaction.
        tenant_id: The tenant.
        events: Of any users, checked before. An event without user is the user's that its `anonymous_id` names.
        months: First days of months whose partitions were seen to, of one database; saves a round trip, and is added to. It must forget:
            a partition that could not be made is asked for again.
    """
    first: dict[EventId, Event] = {}
    for event in events:
        first.setdefault(event.event_id, event)
    unique = list(first.values())
    if not unique:
        return []
    asked = {_month(event) for event in unique}
    if months is None or not asked <= months.keys():
        await connection.execute("SELECT aisle_event_partitions($1::date[])", sorted(asked))
        if months is not None:
            months.update(dict.fromkeys(asked, True))
    fresh = await _insert(connection, tenant_id, unique)
    applied = [event for event in unique if event.event_id in fresh]
    await _count(connection, tenant_id, applied)
    return applied


async def _insert(connection: Connection, tenant_id: TenantId, events: Sequence[Event]) -> set[str]:
    """Stores the events whose ids are new, and returns those ids."""
    if len(events) >= _FEW:
        records = [(*_row(event).values(), place) for place, event in enumerate(events)]
        staged = await stage(connection, "events", [*_COLUMNS.split(", "), "arrival"], records)
        try:
            async with connection.transaction():
                return {row[0] for row in await connection.fetch(_INSERT_STAGED.format(staged=staged), tenant_id)}
        except asyncpg.UniqueViolationError:
            pass  # another writer was quicker with one of them
    rows = await connection.fetch(_INSERT_FEW, tenant_id, orjson.dumps([_row(event) for event in events]).decode())
    return {row[0] for row in rows}


async def _count(connection: Connection, tenant_id: TenantId, applied: Sequence[Event]) -> None:
    added: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for event in applied:
        added[subject_of(event)][event.event_type] += 1
    if not added:
        return
    # By user, so that two writers of the same users wait for each other instead of deadlocking.
    rows = [{"user_id": user_id, "counts": added[user_id]} for user_id in sorted(added)]
    await connection.execute(_COUNT, tenant_id, orjson.dumps(rows).decode())


async def iter_interactions(
    connection: Connection, tenant_id: TenantId, *, start_time: datetime = BEGINNING, end_time: datetime = END, chunk: int = 10_000
) -> AsyncIterator[list[ExportedInteraction]]:
    """Yields the tenant's events on items, by user and then time, in lists of at most `chunk`; one consistent snapshot, in bounded memory.

    Args:
        connection: In the tenant's transaction, which stays open meanwhile.
        tenant_id: The tenant.
        start_time: Earliest `occur_time`, inclusive.
        end_time: Latest `occur_time`, exclusive.
        chunk: Events a list.
    """
    cursor = await connection.cursor(_EXPORT, tenant_id, start_time, end_time)
    while rows := await cursor.fetch(chunk):
        yield [ExportedInteraction._make(row) for row in rows]


async def delete_user_events(connection: Connection, tenant_id: TenantId, user_id: UserId) -> int:
    """Deletes a user's events and returns how many. Their ids stay known, so an event sent again does not come back."""
    status = await connection.execute("DELETE FROM events WHERE tenant_id = $1 AND user_id = $2", tenant_id, user_id)
    return int(status.rpartition(" ")[2])


def _row(event: Event) -> dict[str, Any]:
    return {
        "event_id": event.event_id,
        "user_id": subject_of(event),
        "anonymous_id": event.anonymous_id,
        "item_id": event.item_id,
        "event_type": event.event_type,
        "occur_time": event.occur_time,
        "value": event.value,
        "session_id": event.session_id,
        "properties": event.properties,
    }


def _month(event: Event) -> date:
    return event.occur_time.astimezone(UTC).date().replace(day=1)
