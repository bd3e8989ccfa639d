"""A migrated database and a fresh tenant. `tests/conftest.py` loads this as a plugin."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest

from server.domain import TenantId
from server.embedded import Parts
from server.store import Database, open_database
from server.store.database import Connection
from server.store.migrate import migrate
from server.store.tenants import create_tenant

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
async def database(parts: Parts) -> AsyncIterator[Database]:
    """The embedded database with every migration applied, one a test session."""
    await migrate(parts.database_url)
    async with open_database(parts.database_url) as opened:
        yield opened


@pytest.fixture
async def tenant_id(database: Database) -> AsyncIterator[TenantId]:
    """A tenant that no other test uses. Its items go with the test: each server that starts later would load and index them."""
    tenant_id = TenantId(f"t{next(_numbers)}")
    async with database.system() as connection:
        await create_tenant(connection, tenant_id)
    yield tenant_id
    async with database.tenant(tenant_id) as connection:
        await connection.execute("DELETE FROM items")


async def count_items(connection: Connection) -> int:
    """Returns how many items the connection's tenant has."""
    return int(await connection.fetchval("SELECT count(*) FROM items WHERE delete_time IS NULL"))
