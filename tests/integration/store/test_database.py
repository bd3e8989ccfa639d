import asyncio
import os
import signal
import threading
from pathlib import Path

import asyncpg
import numpy as np
import pytest

from server.domain import Item, ItemId, TenantId
from server.embedded import running_parts
from server.errors import AbortedError, DeadlineExceededError, UnavailableError
from server.store import Database, open_database
from server.store.items import upsert_items
from server.store.migrate import migrate
from server.store.tenants import create_tenant
from tests.fixtures_store import count_items


async def test_an_exception_rolls_the_transaction_back(database: Database, tenant_id: TenantId) -> None:
    """Nothing of a transaction stays when its block raises, or is cancelled."""
    async with database.tenant(tenant_id) as connection:
        await upsert_items(connection, [Item(item_id=ItemId("kept"), title="Kept")])

    async def fail(error: BaseException) -> None:
        async with database.tenant(tenant_id) as connection:
            await upsert_items(connection, [Item(item_id=ItemId("lost"), title="Lost")])
            raise error

    with pytest.raises(KeyError):
        await fail(KeyError("k"))
    with pytest.raises(asyncio.CancelledError):
        await fail(asyncio.CancelledError())
    async with database.tenant(tenant_id) as connection:
        assert await count_items(connection) == 1


async def test_a_statement_past_the_callers_deadline_is_stopped(database: Database, tenant_id: TenantId) -> None:
    """Work in the database ends when the caller's time does, and the connection is usable again."""
    with pytest.raises(DeadlineExceededError):
        async with database.tenant(tenant_id, timeout_s=0.05) as connection:
            await connection.execute("SELECT pg_sleep(30)")
    async with database.tenant(tenant_id) as connection:
        assert await connection.fetchval("SHOW statement_timeout") == "0"


async def test_a_cancelled_query_gives_its_connection_back(database: Database) -> None:
    """Callers that hang up do not use up the pool."""

    async def query() -> None:
        async with database.system() as connection:
            await connection.execute("SELECT pg_sleep(30)")

    tasks = [asyncio.create_task(query()) for _ in range(20)]
    await asyncio.sleep(0.2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with database.system(timeout_s=10) as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_a_pooled_connection_that_died_unnoticed_is_replaced(database: Database, tenant_id: TenantId) -> None:
    """Connections that the server closed while they lay in the pool cost no caller an error."""

    async def kill_all() -> None:
        admin = await asyncpg.connect(database._url)
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'aisle'")
        await admin.close()

    async def read() -> int:
        async with database.tenant(tenant_id) as connection:
            await connection.execute("SELECT pg_sleep(0.05)")  # so that each needs a connection of its own
            return await count_items(connection)

    await asyncio.gather(*(read() for _ in range(5)))
    killer = threading.Thread(target=asyncio.run, args=(kill_all(),))
    killer.start()
    killer.join()  # blocks the loop: it cannot see the connections end before they are used again
    assert await asyncio.gather(*(read() for _ in range(5))) == [0] * 5


async def test_a_full_pool_is_unavailable_when_the_callers_time_is_up(database: Database) -> None:
    """Waiting for a connection ends with the caller's time."""
    async with open_database(database._url, max_connections=1) as small, small.system():
        with pytest.raises(UnavailableError, match="no connection became free"):
            async with small.system(timeout_s=0.05):
                pass


async def test_writers_that_deadlock_are_told_to_retry(database: Database, tenant_id: TenantId) -> None:
    """One of two transactions that wait for each other is ABORTED, the other goes through."""
    both_hold = asyncio.Barrier(2)

    async def lock(first: int, second: int) -> None:
        async with database.tenant(tenant_id) as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(7001, $1)", first)
            await both_hold.wait()
            await connection.execute("SELECT pg_advisory_xact_lock(7001, $1)", second)

    outcomes = await asyncio.gather(lock(1, 2), lock(2, 1), return_exceptions=True)
    assert sorted(type(outcome) for outcome in outcomes if outcome is not None) == [AbortedError]


async def test_values_pass_unchanged(database: Database, tenant_id: TenantId) -> None:
    """JSON comes back as Python values, vectors as float32 arrays, bit for bit."""
    document = {"ü": [1, 2.5, None, True, {"deep": "\U0001f490"}], "": 2**53}
    vector = np.random.default_rng(0).standard_normal(1536).astype(np.float32)
    async with database.tenant(tenant_id) as connection:
        assert await connection.fetchval("SELECT $1::jsonb", document) == document
        assert await connection.fetchval("SELECT $1::jsonb #>> '{ü,4,deep}'", document) == "\U0001f490"
        returned = await connection.fetchval("SELECT $1::vector", vector)
        assert returned.dtype == np.float32
        assert np.array_equal(vector, returned)
        assert await connection.fetchval("SELECT $1::vector <#> $1::vector", vector) == pytest.approx(-float(vector @ vector), rel=1e-5)


async def test_the_database_is_used_again_after_kill_9(short_dir: Path) -> None:
    """After a kill -9 of Postgres calls fail as UNAVAILABLE, then work again on the same Database, and listeners are told to look."""
    heard: asyncio.Queue[str] = asyncio.Queue()
    folder = short_dir / "killed"
    tenant = TenantId("t")
    async with running_parts(data_dir=folder, database=True, redis=False, triton=False, model_files={}, model_repository=folder) as own:
        await migrate(own.database_url)
        async with open_database(own.database_url) as database, database.listen("aisle_changes", heard.put_nowait):
            async with database.system() as connection:
                await create_tenant(connection, tenant)
            async with database.tenant(tenant) as connection:
                await upsert_items(connection, [Item(item_id=ItemId("a"), title="A")])
            assert await asyncio.wait_for(heard.get(), 10) == "t:items"
            os.kill(int((folder / "postgres" / "postmaster.pid").read_text().splitlines()[0]), signal.SIGKILL)
            failures = 0
            while True:
                try:
                    async with database.tenant(tenant, timeout_s=5) as connection:
                        assert await count_items(connection) == 1
                        break
                except UnavailableError:
                    failures += 1
                    await asyncio.sleep(0.05)
            assert failures < 1000
            assert await asyncio.wait_for(heard.get(), 30) == ""
            async with database.tenant(tenant) as connection:
                await upsert_items(connection, [Item(item_id=ItemId("b"), title="B")])
            assert await asyncio.wait_for(heard.get(), 10) == "t:items"
