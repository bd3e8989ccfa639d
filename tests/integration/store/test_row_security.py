"""Tenants are kept apart by the database itself, whatever a query forgets."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
import pytest

from server.domain import Event, EventId, Item, ItemId, TenantId, UserId
from server.embedded import Parts
from server.errors import CorruptDataError
from server.store import Database
from server.store.audit import append_audit, verify_audit
from server.store.events import apply_events
from server.store.items import upsert_items
from server.store.keys import create_key
from server.store.tenants import create_tenant, list_tenants, tenant_exists
from server.store.users import User, upsert_users


@pytest.fixture
async def other_tenant(database: Database, tenant_id: TenantId) -> TenantId:
    """Another tenant, with a row in the tables that hold what callers write."""
    other = TenantId(f"{tenant_id}-other")
    async with database.system() as connection:
        await create_tenant(connection, other)
    async with database.tenant(other) as connection:
        await upsert_items(connection, [Item(item_id=ItemId("secret"), title="Secret")])
        await upsert_users(connection, [User(user_id=UserId("u"))])
        await create_key(connection, ["admin"])
        event = Event(event_id=EventId("e"), user_id=UserId("u"), item_id=None, event_type="view", occur_time=datetime.now(UTC))
        await apply_events(connection, other, [event])
    return other


@pytest.fixture
async def application(database: Database, parts: Parts) -> AsyncIterator[asyncpg.Connection]:
    """A session whose login role is only a member of aisle_app, as an intruder in a hardened deployment would have it."""
    async with database.system() as connection:
        await connection.execute("CREATE ROLE aisle_probe LOGIN IN ROLE aisle_app")
    session = await asyncpg.connect(parts.database_url, user="aisle_probe")
    try:
        yield session
    finally:
        await session.close()
        async with database.system() as connection:
            await connection.execute("DROP ROLE aisle_probe")


async def test_every_table_forces_row_security(database: Database) -> None:
    """No table of the schema, partitions included, can be read past a policy, not even by its owner."""
    async with database.system() as connection:
        tables = await connection.fetch(
            "SELECT c.oid, relname, relrowsecurity, relforcerowsecurity, "
            "EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = 'tenant_id' AND attnotnull) AS has_tenant, "
            "ARRAY(SELECT pg_get_expr(polqual, polrelid) FROM pg_policy WHERE polrelid = c.oid "
            "AND polroles && ARRAY['aisle_app'::regrole::oid, 0::oid]) AS conditions, "
            "has_table_privilege('aisle_app', c.oid, 'SELECT, INSERT, UPDATE, DELETE') AS reachable "
            "FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind IN ('r', 'p') AND nspname = 'public'"
        )
    assert len(tables) > 20
    for table in tables:
        assert table["relrowsecurity"], table["relname"]
        assert table["relforcerowsecurity"], table["relname"]
        if table["relname"] == "schema_migrations":  # of the database, not of a tenant
            assert not table["reachable"]
            continue
        assert table["has_tenant"], table["relname"]
        assert table["conditions"] == ["(tenant_id = current_setting('aisle.tenant_id'::text, true))"], table["relname"]


async def test_the_application_role_cannot_bypass_row_security(database: Database) -> None:
    """aisle_app neither logs in, nor is superuser, nor bypasses policies, nor owns anything."""
    async with database.system() as connection:
        role = await connection.fetchrow("SELECT * FROM pg_roles WHERE rolname = 'aisle_app'")
        assert role is not None
        assert not any(role[name] for name in ("rolsuper", "rolbypassrls", "rolcanlogin", "rolcreaterole", "rolcreatedb", "rolreplication"))
        assert (
            await connection.fetchval("SELECT count(*) FROM pg_class WHERE relowner = 'aisle_app'::regrole AND relpersistence <> 't'") == 0
        )


async def test_a_tenant_sees_and_changes_no_row_of_another(database: Database, tenant_id: TenantId, other_tenant: TenantId) -> None:
    """In every table, queries without any condition on the tenant neither read, change nor remove what is another's."""
    async with database.system() as connection:
        tables = [
            row[0]
            for row in await connection.fetch("SELECT relname FROM pg_class WHERE relforcerowsecurity AND relname <> 'schema_migrations'")
        ]
    for table in tables:
        async with database.tenant(tenant_id) as connection:
            foreign = await connection.fetchval(f"SELECT count(*) FROM {table} WHERE tenant_id <> $1", tenant_id)  # from pg_class
            assert foreign == 0, table
    async with database.tenant(tenant_id) as connection:
        assert await connection.execute("UPDATE items SET title = 'taken'") == "UPDATE 0"
        assert await connection.execute("DELETE FROM items") == "DELETE 0"
        assert await connection.execute("UPDATE api_keys SET scopes = '{admin}'") == "UPDATE 0"
        assert [tenant.tenant_id for tenant in await list_tenants(connection)] == [tenant_id]
        assert not await tenant_exists(connection, other_tenant)
    async with database.tenant(other_tenant) as connection:
        assert await connection.fetchval("SELECT title FROM items") == "Secret"


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO items (tenant_id, item_id, title) VALUES ($1, 'planted', 'Planted')",
        "INSERT INTO users (tenant_id, user_id) VALUES ($1, 'planted')",
        "INSERT INTO api_keys (tenant_id, key_id, key_hash, scopes) VALUES ($1, 'k', decode(repeat('00', 32), 'hex'), '{admin}')",
        "INSERT INTO event_keys (tenant_id, event_id) VALUES ($1, 'planted')",
        "INSERT INTO audit_log (tenant_id, actor, action, resource, details) VALUES ($1, 'a', 'b', 'c', '{}')",
        "INSERT INTO tenant_shaping (tenant_id, exploration) VALUES ($1, 0.5)",
        "UPDATE users SET tenant_id = $1",
    ],
)
async def test_a_tenant_cannot_write_into_another(database: Database, tenant_id: TenantId, other_tenant: TenantId, statement: str) -> None:
    """Naming another tenant in a row that is written is refused."""
    async with database.tenant(tenant_id) as connection:
        await connection.execute("INSERT INTO users (user_id) VALUES ('mine')")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with database.tenant(tenant_id) as connection:
            await connection.execute(statement, other_tenant)


async def test_without_a_tenant_nothing_is_visible(application: asyncpg.Connection, other_tenant: TenantId) -> None:
    """The application role that names no tenant finds empty tables."""
    for table in ("tenants", "items", "users", "api_keys", "events", "event_keys", "user_personalization_profiles", "audit_log"):
        assert await application.fetchval(f"SELECT count(*) FROM {table}") == 0, table  # from the list above


@pytest.mark.parametrize(
    "statement",
    [
        "SET ROLE {owner}",
        "SET SESSION AUTHORIZATION {owner}",
        "SET row_security = off; SELECT * FROM items",
        "ALTER TABLE items DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE items NO FORCE ROW LEVEL SECURITY",
        "DROP POLICY tenant ON items",
        "CREATE POLICY open ON items TO aisle_app USING (true)",
        "ALTER ROLE aisle_app BYPASSRLS",
        "CREATE FUNCTION public.steal() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM items'",
        "SELECT aisle_protect('items')",
        "SELECT * FROM schema_migrations",
        "TRUNCATE items",
        "INSERT INTO tenants (tenant_id) VALUES ('mine')",
        "UPDATE tenants SET display_name = 'x'",
        "DELETE FROM audit_log",
        "COPY items TO PROGRAM 'cat'",
        "COPY items FROM STDIN",
    ],
)
async def test_a_member_of_the_application_role_cannot_step_up(
    database: Database, application: asyncpg.Connection, other_tenant: TenantId, statement: str
) -> None:
    """Roles, policies, tables and other tenants stay out of reach of a session that is only a member of aisle_app."""
    async with database.system() as connection:
        owner = await connection.fetchval("SELECT current_user")
    with pytest.raises(
        (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidAuthorizationSpecificationError, asyncpg.FeatureNotSupportedError)
    ):
        await application.execute(statement.format(owner=owner))


async def test_role_and_tenant_end_with_the_transaction(database: Database, tenant_id: TenantId, other_tenant: TenantId) -> None:
    """A connection that comes back to the pool carries neither role nor tenant nor staged rows into its next use."""
    async with database.tenant(other_tenant) as connection:
        await upsert_items(connection, [Item(item_id=ItemId("more"), title="More")])
        session = await connection.fetchval("SELECT pg_backend_pid()")
    for _ in range(50):  # until the pool hands out the same session
        async with database.system() as connection:
            if await connection.fetchval("SELECT pg_backend_pid()") == session:
                assert await connection.fetchval("SELECT current_user <> 'aisle_app'")
                assert not await connection.fetchval("SELECT current_setting('aisle.tenant_id', true)")
                staged = await connection.fetchval(
                    "SELECT relname FROM pg_class WHERE relname LIKE 'staged_items%' AND relnamespace = pg_my_temp_schema()"
                )
                assert await connection.fetchval(f"SELECT count(*) FROM pg_temp.{staged}") == 0  # from pg_class
                break
    else:
        pytest.fail("the pool never reused the session")


async def test_the_audit_log_shows_what_was_done_to_it(database: Database, tenant_id: TenantId) -> None:
    """Entries cannot be changed or removed, even by the owner; one smuggled past the triggers breaks the chain."""
    async with database.tenant(tenant_id) as connection:
        for number in range(3):
            await append_audit(connection, actor="cli", action="try", resource=f"things/{number}", details={"n": number})
        assert await verify_audit(connection) == 3
    for statement in ("UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log", "TRUNCATE audit_log"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            async with database.system() as connection:
                await connection.execute(statement)
    async with database.system() as connection:
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute("UPDATE audit_log SET actor = 'x' WHERE tenant_id = $1 AND entry = 2", tenant_id)
    with pytest.raises(CorruptDataError, match="entry 2"):
        async with database.tenant(tenant_id) as connection:
            await verify_audit(connection)
