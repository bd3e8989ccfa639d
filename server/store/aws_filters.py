"""Filters of AWS Personalize that a tenant brought along, by name."""

from __future__ import annotations

from collections.abc import Mapping

from server.store.database import Connection


async def get_filter(connection: Connection, name: str) -> str | None:
    """Returns a filter's expression, or None."""
    found = await connection.fetchval("SELECT expression FROM aws_filters WHERE name = $1", name)
    return None if found is None else str(found)


async def put_filters(connection: Connection, filters: Mapping[str, str]) -> None:
    """Creates filters, or replaces those of the same names."""
    await connection.executemany(
        "INSERT INTO aws_filters (name, expression) VALUES ($1, $2) "
        "ON CONFLICT (tenant_id, name) DO UPDATE SET expression = excluded.expression, update_time = now()",
        sorted(filters.items()),
    )
