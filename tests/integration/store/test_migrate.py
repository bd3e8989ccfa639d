import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from server.domain import DecisionId, Item, ItemId, TenantId
from server.domain.decisions import Ranking, pack_ids
from server.embedded import Parts
from server.errors import FailedPreconditionError, UnavailableError
from server.store import Database, open_database
from server.store.decisions import get_decision
from server.store.items import upsert_items
from server.store.migrate import MIGRATIONS, Migration, migrate, read_migrations
from server.store.tenants import create_tenant, list_tenants
from tests.fixtures_store import count_items

MakeDatabase = Callable[..., Coroutine[Any, Any, str]]


@pytest.fixture
async def make_database(parts: Parts) -> AsyncIterator[MakeDatabase]:
    """Returns a function that makes an empty database beside the session's and returns its URL."""
    numbers = itertools.count()
    made = []
    admin = await asyncpg.connect(parts.database_url)

    async def make(owner: str = "") -> str:
        name = f"aisle_empty_{next(numbers)}"
        await admin.execute(f"CREATE DATABASE {name}" + (f" OWNER {owner}" if owner else ""))
        made.append(name)
        url = re.sub(r"/[^/?]*\?", f"/{name}?", parts.database_url)
        return re.sub(r"//[^@]*@", f"//{owner}@", url) if owner else url

    yield make
    for name in made:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.execute("DROP ROLE IF EXISTS aisle_owner")
    await admin.close()


async def test_migrations_apply_once_however_many_ask(make_database: MakeDatabase) -> None:
    """Of several processes that migrate an empty database at once, each migration is applied by one."""
    url = await make_database()
    applied = await asyncio.gather(migrate(url), migrate(url), migrate(url))
    assert [migration.name for migration in read_migrations()] == [name for names in applied for name in names]
    assert await migrate(url) == []


async def test_databases_of_one_cluster_migrate_side_by_side(make_database: MakeDatabase) -> None:
    """The role, which the cluster has once, is no obstacle to several databases migrating at once."""
    urls = [await make_database() for _ in range(3)]
    results = await asyncio.gather(*map(migrate, urls))
    assert all(len(names) == len(read_migrations()) for names in results)


async def test_an_edited_migration_is_refused(make_database: MakeDatabase) -> None:
    """A file that was changed after it was applied is named, and nothing is applied."""
    url = await make_database()
    await migrate(url)
    first, *rest = read_migrations()
    later = Migration(9999, "9999_later", "CREATE TABLE later ()")
    with pytest.raises(FailedPreconditionError, match=f"{first.name} was applied with other contents"):
        await migrate(url, [replace(first, sql=first.sql + "-- edited"), *rest, later])
    assert await migrate(url) == []


async def test_a_failing_migration_leaves_those_before_it(make_database: MakeDatabase) -> None:
    """A migration is applied whole or not at all; the next run goes on from there."""
    url = await make_database()
    good = Migration(1, "0001_good", "CREATE TABLE good ()")
    bad = Migration(2, "0002_bad", "CREATE TABLE half (); SELECT 1 / 0;")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(url, [good, bad])
    assert await migrate(url, [good, replace(bad, sql="CREATE TABLE half ()")]) == ["0002_bad"]


async def test_a_newer_database_is_refused(make_database: MakeDatabase) -> None:
    """An older release does not run on a schema it does not know."""
    url = await make_database()
    await migrate(url, [Migration(1, "0001_a", "SELECT 1"), Migration(2, "0002_b", "SELECT 1")])
    with pytest.raises(FailedPreconditionError, match="0002_b, which this release does not know"):
        await migrate(url, [Migration(1, "0001_a", "SELECT 1")])


def test_migration_files_have_numbers_of_their_own(tmp_path: Path) -> None:
    """Two files of one number are refused; those that ship are numbered without a gap."""
    (tmp_path / "0001_a.sql").touch()
    (tmp_path / "0001_b.sql").touch()
    with pytest.raises(FailedPreconditionError, match="share a number"):
        read_migrations(tmp_path)
    shipped = read_migrations(MIGRATIONS)
    assert [migration.version for migration in shipped] == list(range(1, len(shipped) + 1))


async def test_an_owner_without_superuser_rights_can_migrate_and_serve(
    make_database: MakeDatabase, database: Database, parts: Parts
) -> None:
    """A role that owns the database and may create roles is enough, once a superuser made the extension; policies bind it too."""
    async with database.system() as connection:
        superuser = await connection.fetchval("SELECT current_user")
        await connection.execute("CREATE ROLE aisle_owner LOGIN CREATEROLE")
        await connection.execute("GRANT aisle_app TO aisle_owner WITH ADMIN OPTION")  # as it would have had it created the role
    url = await make_database("aisle_owner")
    with pytest.raises(FailedPreconditionError, match="CREATE EXTENSION vector"):
        await migrate(url)
    extension = await asyncpg.connect(url, user=superuser)
    await extension.execute("CREATE EXTENSION vector")
    await extension.close()
    assert len(await migrate(url)) == len(read_migrations())
    async with open_database(url) as own:
        for name in ("one", "two"):
            async with own.system() as connection:
                await create_tenant(connection, TenantId(name))
            async with own.tenant(TenantId(name)) as connection:
                await upsert_items(connection, [Item(item_id=ItemId(name), title=name)])
                assert await count_items(connection) == 1
        async with own.system() as connection:
            assert len(await list_tenants(connection)) == 2
            assert await connection.fetchval("SELECT count(*) FROM items") == 2


async def test_a_database_that_was_never_migrated_says_what_to_run(make_database: MakeDatabase) -> None:
    """Using an empty database names `aisle migrate`."""
    async with open_database(await make_database()) as database:
        with pytest.raises(FailedPreconditionError, match="aisle migrate"):
            async with database.system() as connection:
                await list_tenants(connection)


@pytest.mark.parametrize("url", ["postgresql://nobody@127.0.0.1:1/none", "postgresql://x@/none?host=/no/such/folder"])
async def test_a_database_that_is_not_there_is_unavailable(url: str) -> None:
    """Nothing at the URL is UNAVAILABLE in migrate and in open_database, not a driver's error."""
    with pytest.raises(UnavailableError, match="database"):
        await migrate(url)
    with pytest.raises(UnavailableError, match="database"):
        async with open_database(url):
            pass


async def test_decisions_written_before_keep_their_lists(make_database: MakeDatabase) -> None:
    """Lists that an older version kept in arrays are read as they were, whatever tenant they are of."""
    url = await make_database()
    all_of_them = read_migrations()
    before = [one for one in all_of_them if one.version < 8]
    await migrate(url, before)
    connection = await asyncpg.connect(url)
    try:
        for name in ("acme", "other"):
            await connection.execute("INSERT INTO tenants (tenant_id) VALUES ($1)", name)
            await connection.execute(
                "INSERT INTO decisions (tenant_id, decision_id, user_id, method, decide_time, items, scores, propensities, probabilities, "
                "candidates_packed, rung, bundle_id, runtime, arms, context) "
                "VALUES ($1, 'd1', 'ann', 'RankItems', now(), $2, $3, $4, $5, $6, 5, 'b', 'local', '{}', '{}')",
                *(name, ["a", 'b"\u00e9'], [0.1 + 0.2, -1e-300], [1.0, 0.25], [0.5]),
                pack_ids([ItemId("a")]),
            )
    finally:
        await connection.close()
    assert await migrate(url) == [one.name for one in all_of_them[len(before) :]]
    async with open_database(url) as database:
        for name in ("acme", "other"):
            async with database.tenant(TenantId(name)) as one:
                found = (await get_decision(one, DecisionId("d1"))).ranking
            assert found == Ranking.of(("a", 'b"\u00e9'), (0.1 + 0.2, -1e-300), (1.0, 0.25), (0.5,))
