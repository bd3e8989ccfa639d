"""Users in bulk, as their tenant states them. One user's facts are read and changed through `profiles`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from server.domain import UserId
from server.store.database import Connection
from server.store.staging import stage

_WRITTEN = ("user_id", "traits", "locale", "time_zone", "event_date")


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user's stated facts."""

    user_id: UserId
    traits: Mapping[str, Any] = field(default_factory=dict)
    locale: str = ""
    time_zone: str = ""
    event_date: datetime | None = None


@dataclass(frozen=True, slots=True)
class UserCounts:
    """What a bulk upsert did; users equal to what was stored are left alone."""

    created: int
    updated: int
    unchanged: int


async def upsert_users(connection: Connection, users: Iterable[User]) -> UserCounts:
    """Creates users or replaces their stated facts in bulk; of several with one id the last counts. All or nothing.

    A user of whom so far only events were known counts as updated.
    """
    records = {user.user_id: tuple(getattr(user, name) for name in _WRITTEN) for user in users}
    staged = await stage(connection, "user_personalization_profiles", _WRITTEN, records.values())
    await connection.execute(f"INSERT INTO users (user_id) SELECT user_id FROM {staged} ORDER BY user_id ON CONFLICT DO NOTHING")  # noqa: S608  # names are ours
    row = await connection.fetchrow(
        "WITH written AS (INSERT INTO user_personalization_profiles AS old (user_id, traits, locale, time_zone, event_date, version) "  # noqa: S608
        f"SELECT user_id, traits, locale, time_zone, event_date, 1 FROM {staged} ORDER BY user_id "
        "ON CONFLICT (tenant_id, user_id) DO UPDATE SET traits = excluded.traits, locale = excluded.locale, "
        "time_zone = excluded.time_zone, event_date = excluded.event_date, version = old.version + 1, update_time = now() "
        "WHERE (old.traits, old.locale, old.time_zone, old.event_date) IS DISTINCT FROM "
        "(excluded.traits, excluded.locale, excluded.time_zone, excluded.event_date) RETURNING xmax = 0 AS created) "
        "SELECT count(*) FILTER (WHERE created) AS created, count(*) AS written FROM written"
    )
    assert row is not None
    return UserCounts(created=row["created"], updated=row["written"] - row["created"], unchanged=len(records) - row["written"])
