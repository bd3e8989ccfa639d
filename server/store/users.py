"""Users as their tenant states them. What is learned of them stands in `profiles`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from server.domain import UserId
from server.errors import NotFoundError
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


async def get_user(connection: Connection, user_id: UserId) -> User:
    """Returns a user.

    Raises:
        NotFoundError: Nothing was stated about the user; events may exist all the same.
    """
    row = await connection.fetchrow("SELECT user_id, traits, locale, time_zone, event_date FROM users WHERE user_id = $1", user_id)
    if row is None:
        raise NotFoundError(f"users/{user_id}")
    return User(**row)


async def upsert_users(connection: Connection, users: Iterable[User]) -> UserCounts:
    """Creates or replaces users in bulk; of several with one id the last counts. All or nothing."""
    records = {user.user_id: tuple(getattr(user, name) for name in _WRITTEN) for user in users}
    staged = await stage(connection, "users", _WRITTEN, records.values())
    row = await connection.fetchrow(
        "WITH written AS (INSERT INTO users (user_id, traits, locale, time_zone, event_date) "  # noqa: S608  # names are ours
        f"SELECT user_id, traits, locale, time_zone, event_date FROM {staged} ON CONFLICT (tenant_id, user_id) DO UPDATE "
        "SET traits = excluded.traits, locale = excluded.locale, time_zone = excluded.time_zone, event_date = excluded.event_date, "
        "update_time = now() WHERE (users.traits, users.locale, users.time_zone, users.event_date) IS DISTINCT FROM "
        "(excluded.traits, excluded.locale, excluded.time_zone, excluded.event_date) RETURNING xmax = 0 AS created) "
        "SELECT count(*) FILTER (WHERE created) AS created, count(*) AS written FROM written"
    )
    assert row is not None
    return UserCounts(created=row["created"], updated=row["written"] - row["created"], unchanged=len(records) - row["written"])
