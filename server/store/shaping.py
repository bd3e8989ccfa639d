"""How tenants want their lists shaped, where not as the servers' settings say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import asyncpg

from server.domain import TenantId
from server.domain.shaping import ShapingValues
from server.store.database import Connection

_NAMES = tuple(field.name for field in fields(ShapingValues))


async def all_shaping(connection: Connection) -> dict[TenantId, ShapingValues]:
    """Returns what tenants have set. `connection` is of `Database.system()`; a tenant's own sees itself alone."""
    return {TenantId(row["tenant_id"]): _values(row) for row in await connection.fetch("SELECT * FROM tenant_shaping")}


async def change_shaping(connection: Connection, changes: Mapping[str, float | int | str | None]) -> ShapingValues:
    """Sets what is named, leaves the rest, and returns what the tenant then has. Running servers hear of it at the commit.

    Args:
        connection: Of `Database.tenant()`.
        changes: At least one; fields of `ShapingValues`, in the ranges of `server.settings.ShapingSettings`. None: the servers' setting.
    """
    names = [name for name in _NAMES if name in changes]  # never a name from input
    places = ", ".join(f"${number}" for number in range(1, len(names) + 1))
    replaced = ", ".join(f"{name} = excluded.{name}" for name in names)
    row = await connection.fetchrow(
        f"INSERT INTO tenant_shaping ({', '.join(names)}) VALUES ({places}) "  # noqa: S608  # names are ours
        f"ON CONFLICT (tenant_id) DO UPDATE SET {replaced}, update_time = now() RETURNING *",
        *(changes[name] for name in names),
    )
    assert row is not None
    return _values(row)


def _values(row: asyncpg.Record) -> ShapingValues:
    return ShapingValues(**{name: row[name] for name in _NAMES})
