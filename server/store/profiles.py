"""User profiles: what callers state of a user beside what events counted. History is read from the events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import orjson
from asyncpg import Record
from numpy.typing import NDArray

from server.domain import EventId, Interaction, ItemId, Profile, TenantId, UserId
from server.domain.profiles import HISTORY_LIMIT
from server.errors import AbortedError, InvalidFieldError, NotFoundError
from server.store.database import Connection
from server.store.events import delete_user_events

WRITABLE = ("traits", "locale", "time_zone", "event_date", "preference_scores")
"""What callers may set; also the names of the columns."""

# One statement, so that profile and history are of one moment; the history as one text, as the driver takes 10 us for a row in a row.
_GET = f"""
SELECT profile.user_id, traits, locale, time_zone, event_date, preference_scores, engagement_history, version, create_time, update_time,
    (SELECT json_agg(json_build_array(item_id, event_type, occur_time, value, event_id, session_id)) FROM (
        SELECT item_id, event_type, occur_time, value, event_id, session_id FROM events
        WHERE events.tenant_id = profile.tenant_id AND events.user_id = profile.user_id AND item_id IS NOT NULL
        ORDER BY occur_time DESC, arrival DESC LIMIT {HISTORY_LIMIT}
    ) AS newest) AS history
FROM user_personalization_profiles AS profile
WHERE profile.tenant_id = $1 AND profile.user_id = ANY($2::text[])
"""  # noqa: S608  # a constant of ours


async def get_profile(connection: Connection, tenant_id: TenantId, user_id: UserId) -> Profile | None:
    """Returns a user's profile with history, or None for one without events and without stated facts."""
    return (await get_profiles(connection, tenant_id, [user_id])).get(user_id)


async def get_profiles(connection: Connection, tenant_id: TenantId, user_ids: Sequence[UserId]) -> dict[UserId, Profile]:
    """Returns the profiles that exist, by user, in one round trip."""
    rows = await connection.fetch(_GET, tenant_id, list(user_ids))
    return {UserId(row["user_id"]): _profile(row) for row in rows}


async def stated_profiles(connection: Connection, *, limit: int) -> dict[UserId, Profile]:
    """Returns what users have stated, without their histories, of at most `limit` of those who have: always the same, in no order."""
    rows = await connection.fetch(
        "SELECT user_id, traits, locale, event_date, preference_scores FROM user_personalization_profiles "
        "WHERE traits <> '{}' OR locale <> '' OR event_date IS NOT NULL OR preference_scores <> '{}' "
        "ORDER BY md5(user_id), user_id LIMIT $1",
        limit,
    )
    return {UserId(row["user_id"]): Profile(**row) for row in rows}


async def update_profile(
    connection: Connection,
    tenant_id: TenantId,
    user_id: UserId,
    changes: Mapping[str, Any],
    *,
    version: int | None = None,
    allow_missing: bool = True,
) -> Profile:
    """Sets fields of a profile and returns the new one. Fields not named stay.

    Args:
        connection: In the tenant's transaction.
        tenant_id: The tenant.
        user_id: The user.
        changes: Field -> value, of those in `WRITABLE`.
        version: What the caller read (the etag); None writes whatever stands there. Applied events change it too.
        allow_missing: Make the profile when there is none.

    Raises:
        InvalidFieldError: A field is not writable.
        NotFoundError: There is no profile and `allow_missing` is false.
        AbortedError: The version differs.
    """
    for name in changes:
        if name not in WRITABLE:
            raise InvalidFieldError(name, f"cannot be set; the fields that can are {', '.join(WRITABLE)}")
    if allow_missing:
        await connection.execute(
            "INSERT INTO user_personalization_profiles (tenant_id, user_id) VALUES ($1, $2) ON CONFLICT DO NOTHING", tenant_id, user_id
        )
    found = await connection.fetchval(
        "SELECT version FROM user_personalization_profiles WHERE tenant_id = $1 AND user_id = $2 FOR UPDATE", tenant_id, user_id
    )
    if found is None:
        raise NotFoundError(f"users/{user_id}/profile")
    if version is not None and version != found:
        raise AbortedError(f"the profile of users/{user_id} changed since it was read; read it again and retry", etag=version)
    assignments = ", ".join(
        ["version = version + 1", "update_time = now()", *(f"{name} = ${place}" for place, name in enumerate(changes, 3))]
    )
    await connection.execute(
        f"UPDATE user_personalization_profiles SET {assignments} WHERE tenant_id = $1 AND user_id = $2",  # noqa: S608  # names of WRITABLE
        tenant_id,
        user_id,
        *changes.values(),
    )
    updated = await get_profile(connection, tenant_id, user_id)
    assert updated is not None
    return updated


async def delete_profile(connection: Connection, tenant_id: TenantId, user_id: UserId) -> bool:
    """Deletes a user's profile, events and anonymous ids; returns whether there was a profile.

    What stays: the ids of the events, without user, so that events sent again do not count again; decision records; and events that are in
    the stream but not yet applied, which make a new profile of their own.
    """
    await delete_user_events(connection, tenant_id, user_id)
    await connection.execute("DELETE FROM identities WHERE tenant_id = $1 AND user_id = $2", tenant_id, user_id)
    status = await connection.execute("DELETE FROM user_personalization_profiles WHERE tenant_id = $1 AND user_id = $2", tenant_id, user_id)
    return status != "DELETE 0"


async def save_embeddings(
    connection: Connection, tenant_id: TenantId, vectors: Mapping[UserId, NDArray[np.float32]], bundle_id: str
) -> None:
    """Keeps users' vectors beside their profiles, whose versions stay. Does nothing for a user without profile.

    Args:
        connection: In the tenant's transaction.
        tenant_id: The tenant.
        vectors: float32, (1536,) each.
        bundle_id: The bundle that made them; vectors of different bundles do not compare.
    """
    await connection.executemany(
        "UPDATE user_personalization_profiles SET user_embedding = $3, model_version = $4 WHERE tenant_id = $1 AND user_id = $2",
        # By user, so that two writers of the same users wait for each other instead of deadlocking.
        [(tenant_id, user_id, vectors[user_id], bundle_id) for user_id in sorted(vectors)],
    )


def _history(newest_first: str | None) -> tuple[Interaction, ...]:
    rows = orjson.loads(newest_first or "[]")
    return tuple(
        Interaction(ItemId(item_id), event_type, datetime.fromisoformat(time), float(value), EventId(event_id), session_id)
        for item_id, event_type, time, value, event_id, session_id in reversed(rows)
    )


def _profile(row: Record) -> Profile:
    return Profile(
        user_id=UserId(row["user_id"]),
        traits=row["traits"],
        locale=row["locale"],
        time_zone=row["time_zone"],
        event_date=row["event_date"],
        history=_history(row["history"]),
        preference_scores=row["preference_scores"],
        engagement_history=row["engagement_history"],
        version=row["version"],
        create_time=row["create_time"],
        update_time=row["update_time"],
    )
