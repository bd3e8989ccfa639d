"""Who an anonymous id turned out to be: an event that carries a user and an anonymous id says so. The first user of an id stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from server.domain import Event, TenantId, UserId
from server.domain.history import subject_of
from server.store.database import Connection

_LOCK = "SELECT pg_advisory_xact_lock{shared}(hashtext('aisle:identities'), hashtext($1))"

# The other profile's counts are added, its stated facts fill what is empty; then it goes.
_MERGE = """
WITH gone AS (
    DELETE FROM user_personalization_profiles WHERE tenant_id = $1 AND user_id = $2 RETURNING *
)
INSERT INTO user_personalization_profiles AS profile
    (tenant_id, user_id, traits, locale, time_zone, event_date, preference_scores, engagement_history, version)
SELECT $1, $3, traits, locale, time_zone, event_date, preference_scores, engagement_history, 1 FROM gone
ON CONFLICT (tenant_id, user_id) DO UPDATE SET
    traits = excluded.traits || profile.traits,
    locale = coalesce(nullif(profile.locale, ''), excluded.locale),
    time_zone = coalesce(nullif(profile.time_zone, ''), excluded.time_zone),
    event_date = coalesce(profile.event_date, excluded.event_date),
    preference_scores = excluded.preference_scores || profile.preference_scores,
    engagement_history = aisle_add_counts(profile.engagement_history, excluded.engagement_history),
    version = profile.version + 1,
    update_time = now()
"""


async def identify(connection: Connection, tenant_id: TenantId, events: Sequence[Event]) -> list[Event]:
    """Returns the events with those of known anonymous ids given to their users, and takes in who is who.

    When an id turns out to be a user's, the events and the profile kept under it become the user's. Events without anonymous id cost
    nothing here; others one or two round trips a batch, as long as nobody new is identified.

    Args:
        connection: In the transaction that applies the events.
        tenant_id: The tenant.
        events: In the order they came.
    """
    anonymous = sorted({event.anonymous_id for event in events if event.anonymous_id})
    if not anonymous:
        return list(events)
    # Against a writer that adds events to an id while another moves what the id has: see the exclusive lock.
    said = _said(events)
    known = await _known(connection, tenant_id, anonymous)
    if said.keys() - known.keys():
        await connection.execute(_LOCK.format(shared=""), tenant_id)
        known = await _known(connection, tenant_id, anonymous)
        for anonymous_id in sorted(said.keys() - known.keys()):
            await _link(connection, tenant_id, anonymous_id, said[anonymous_id])
        known = await _known(connection, tenant_id, anonymous)  # a link may have moved others along
    elif any(_is_anonymous(event) for event in events):
        await connection.execute(_LOCK.format(shared="_shared"), tenant_id)
        known = await _known(connection, tenant_id, anonymous)
    return [
        replace(event, user_id=known[event.anonymous_id]) if _is_anonymous(event) and event.anonymous_id in known else event
        for event in events
    ]


def _is_anonymous(event: Event) -> bool:
    return bool(event.anonymous_id) and subject_of(event) == event.anonymous_id


def _said(events: Sequence[Event]) -> dict[str, UserId]:
    """Returns anonymous id -> the first user that an event names beside it."""
    said: dict[str, UserId] = {}
    for event in events:
        if event.anonymous_id and not _is_anonymous(event):
            said.setdefault(event.anonymous_id, event.user_id)
    return said


async def _known(connection: Connection, tenant_id: TenantId, anonymous: Sequence[str]) -> dict[str, UserId]:
    rows = await connection.fetch(
        "SELECT anonymous_id, user_id FROM identities WHERE tenant_id = $1 AND anonymous_id = ANY($2::text[])", tenant_id, anonymous
    )
    return {row["anonymous_id"]: UserId(row["user_id"]) for row in rows}


async def _link(connection: Connection, tenant_id: TenantId, anonymous_id: str, user_id: UserId) -> None:
    """Makes an anonymous id a user's, with all that is kept under it, unless that would go round in a circle."""
    user_id = (await _known(connection, tenant_id, [user_id])).get(user_id, user_id)  # who is known by a newer id is meant by it
    if user_id == anonymous_id:
        return
    await connection.execute(
        "INSERT INTO identities (tenant_id, anonymous_id, user_id) VALUES ($1, $2, $3)", tenant_id, anonymous_id, user_id
    )
    await connection.execute("UPDATE identities SET user_id = $3 WHERE tenant_id = $1 AND user_id = $2", tenant_id, anonymous_id, user_id)
    await connection.execute("UPDATE events SET user_id = $3 WHERE tenant_id = $1 AND user_id = $2", tenant_id, anonymous_id, user_id)
    await connection.execute(_MERGE, tenant_id, anonymous_id, user_id)
