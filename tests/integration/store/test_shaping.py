"""Tenants' own shaping in the database."""

from __future__ import annotations

import asyncpg
import pytest

from server.domain import TenantId
from server.domain.shaping import ShapingValues
from server.store import Database
from server.store.shaping import all_shaping, change_shaping
from tests.eventually import eventually


async def test_a_change_leaves_what_it_does_not_name(database: Database, tenant_id: TenantId) -> None:
    """Each change sets what it names, None takes it back, and other tenants have nothing of it."""
    async with database.tenant(tenant_id) as connection:
        await change_shaping(connection, {"diversity": 0.25, "repeatable_event_types": "play"})
        changed = await change_shaping(connection, {"diversity": None, "vendor_cap": 4})
        assert changed == ShapingValues(vendor_cap=4, repeatable_event_types="play")
        assert await all_shaping(connection) == {tenant_id: changed}
    async with database.system() as connection:
        assert (await all_shaping(connection))[tenant_id] == changed


async def test_a_change_is_announced(database: Database, tenant_id: TenantId) -> None:
    """Who listens hears `TENANT:shaping` once the change is committed."""
    heard: list[str] = []
    async with database.listen("aisle_changes", heard.append):
        async with database.tenant(tenant_id) as connection:
            await change_shaping(connection, {"exploration": 0.1})

        async def announced() -> bool:
            return f"{tenant_id}:shaping" in heard

        await eventually(announced)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("diversity", 0.95),
        ("diversity", float("nan")),
        ("vendor_cap", 501),
        ("vendor_attribute", "city"),
        ("new_item_share", -0.1),
        ("new_item_days", 0.0),
        ("exploration", 0.6),
    ],
)
async def test_the_database_refuses_what_settings_refuse(database: Database, tenant_id: TenantId, name: str, value: float | str) -> None:
    """Values out of range cannot be written by SQL either."""
    with pytest.raises(asyncpg.CheckViolationError):
        async with database.tenant(tenant_id) as connection:
            await change_shaping(connection, {name: value})
