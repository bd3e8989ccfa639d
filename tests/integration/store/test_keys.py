from datetime import UTC, datetime, timedelta

import pytest

from server.domain import TenantId
from server.errors import InvalidFieldError, NotFoundError
from server.store import Database
from server.store.audit import verify_audit
from server.store.keys import authenticate, create_key, list_keys, revoke_key


async def test_a_key_opens_its_tenant_with_its_scopes(database: Database, tenant_id: TenantId) -> None:
    """The key printed once resolves to the tenant and scopes it was made with, and its secret is stored nowhere."""
    async with database.tenant(tenant_id) as connection:
        key, record = await create_key(connection, ["events", "recommend", "events"])
        assert record.scopes == ("recommend", "events")
        stored = await connection.fetchval("SELECT api_keys::text FROM api_keys")
        assert key.rpartition("_")[2] not in stored
        assert await verify_audit(connection) == 1
    credential = await authenticate(database, key)
    assert credential is not None
    assert (credential.tenant_id, credential.scopes) == (tenant_id, {"recommend", "events"})


async def test_a_key_that_nobody_issued_opens_nothing(database: Database, tenant_id: TenantId) -> None:
    """Altered, truncated, foreign-tenant and nonsense keys resolve to None, never to an error."""
    async with database.tenant(tenant_id) as connection:
        key, _ = await create_key(connection, ["admin"])
    tail = "a" if key[-1] != "a" else "b"
    other = key.replace(f"_{tenant_id}_", "_demo_")
    for wrong in (
        key[:-1] + tail,
        key[:-1],
        key + "a",
        other,
        "",
        "aisle__",
        f"aisle_{'X' * 70}_{'a' * 40}",
        "aisle_t_" + "\ud800" * 40,
        "\0",
    ):
        assert await authenticate(database, wrong) is None


async def test_revoked_and_expired_keys_open_nothing(database: Database, tenant_id: TenantId) -> None:
    """After revocation or expiry a key resolves to None; revoking twice is no error and recorded once."""
    async with database.tenant(tenant_id) as connection:
        revoked, record = await create_key(connection, ["items"])
        expired, _ = await create_key(connection, ["items"], expire_time=datetime.now(UTC) - timedelta(seconds=1))
        await revoke_key(connection, record.key_id)
    async with database.tenant(tenant_id) as connection:
        first = await revoke_key(connection, record.key_id)
        assert first.revoke_time is not None
        assert await verify_audit(connection) == 3
        assert len(await list_keys(connection)) == 2
        with pytest.raises(NotFoundError):
            await revoke_key(connection, "no-such-key")
    assert await authenticate(database, revoked) is None
    assert await authenticate(database, expired) is None


@pytest.mark.parametrize("scopes", [["fly"], [], [""], ["admin", "ADMIN"]])
async def test_an_unknown_scope_is_named_with_the_known_ones(database: Database, tenant_id: TenantId, scopes: list[str]) -> None:
    """Keys are made with known scopes only, at least one."""
    with pytest.raises(InvalidFieldError, match=r"scopes: .*recommend, events"):
        async with database.tenant(tenant_id) as connection:
            await create_key(connection, scopes)
