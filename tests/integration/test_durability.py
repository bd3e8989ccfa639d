"""The promise on events: acknowledged means in the table, once, whatever is killed."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Self

import asyncpg
import orjson
import psutil
import pytest

from server.domain import TenantId
from server.embedded import running_parts
from server.store import open_database
from server.store.migrate import migrate
from server.store.tenants import create_tenant
from server.stream import connect
from tests.eventually import eventually
from tests.fixtures_stream import own_redis
from tests.integration import durability_programs
from tests.redis_server import OwnRedis

__all__ = ["own_redis"]

KILLS = 20
POSTGRES_KILLS = 3
TENANT = TenantId("acme")
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["pytest", "tests.integration.durability_programs"])
STREAM = f"aisle:{{{TENANT}}}:events"


class Victim:
    """A process that is started again whenever it was killed.

    Forked from a server that has imported everything, as forty cold starts would cost more than all they do.
    """

    def __init__(self, program: durability_programs.Program, *arguments: str, names: itertools.cycle[str] | None = None) -> None:
        self._program = program
        self._arguments = arguments
        self._names = names
        self._process: ForkServerProcess | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None:
            await self.kill()

    async def start(self) -> None:
        """Starts it and waits until it is at work; again if it ended before, as it does while the database is down."""
        arguments = [*self._arguments, *([next(self._names)] if self._names else [])]
        while True:
            ready, report = CONTEXT.Pipe(duplex=False)
            self._process = CONTEXT.Process(target=durability_programs.run, args=(self._program, report, arguments), daemon=True)
            self._process.start()
            report.close()
            with ready:
                if await asyncio.to_thread(_received, ready):
                    return
            await self.kill()

    async def kill(self) -> None:
        """Ends it as `kill -9` does."""
        assert self._process is not None
        self._process.kill()
        await asyncio.to_thread(self._process.join)
        self._process.close()
        self._process = None


def _received(ready: Connection) -> bool:
    try:
        return bool(ready.recv())
    except EOFError:
        return False


async def _kill_often(victim: Victim) -> None:
    for _ in range(KILLS):
        await asyncio.sleep(random.random() * 0.5)
        await victim.kill()
        await victim.start()


async def _kill_redis_often(server: OwnRedis) -> None:
    for _ in range(KILLS):
        await asyncio.sleep(random.random())
        await server.kill()
        await server.start()


async def _kill_postgres_sometimes(folder: Path) -> None:
    for _ in range(POSTGRES_KILLS):
        await asyncio.sleep(2 + random.random())
        (postmaster,) = [
            process
            for process in psutil.Process().children(recursive=True)
            if process.name() == "postgres" and str(folder) in " ".join(process.cmdline())
        ]
        postmaster.kill()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="aisle-d-", dir="/tmp"))
    (path / "acknowledged").mkdir()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
async def database_url(folder: Path) -> AsyncIterator[str]:
    """A migrated database with one tenant, under its supervisor."""
    async with running_parts(
        data_dir=folder / "data", database=True, redis=False, triton=False, model_files={}, model_repository=folder
    ) as running:
        await migrate(running.database_url)
        async with open_database(running.database_url) as database, database.system() as connection:
            await create_tenant(connection, TENANT)
        yield running.database_url


def _read_lines(folder: Path) -> set[str]:
    return {line for file in folder.iterdir() for line in file.read_text().splitlines()}


async def test_acknowledged_events_are_never_lost_and_count_once(own_redis: OwnRedis, database_url: str, folder: Path) -> None:
    """Killing the ingesting process, the worker and Redis 20 times each, and Postgres, at random points, loses and doubles nothing."""
    ingest = Victim(durability_programs.ingest, own_redis.url, TENANT, str(folder / "acknowledged"))
    # A restart under the old name resumes its entries, under a new one another worker takes them over.
    worker = Victim(durability_programs.work, own_redis.url, database_url, TENANT, names=itertools.cycle(["a", "a", "b", "c"]))
    async with ingest, worker:
        await asyncio.gather(_kill_often(ingest), _kill_often(worker), _kill_redis_often(own_redis), _kill_postgres_sometimes(folder))
        await ingest.kill()
        acknowledged = _read_lines(folder / "acknowledged")
        async with connect(own_redis.url, timeout_s=2.0) as client:

            async def drained() -> bool:
                return await client.xlen(STREAM) == 0

            await eventually(drained)
            assert await client.xlen(f"{STREAM}:dead") == 0

    connection = await asyncpg.connect(database_url)
    rows = await connection.fetch("SELECT event_id, user_id, event_type FROM events")
    profiles = await connection.fetch("SELECT user_id, engagement_history::text AS counts FROM user_personalization_profiles")
    keys = {row[0] for row in await connection.fetch("SELECT event_id FROM event_keys")}
    await connection.close()
    stored = Counter(row["event_id"] for row in rows)
    assert len(acknowledged) > 20 * KILLS
    assert acknowledged - stored.keys() == set()
    assert [event_id for event_id, count in stored.items() if count > 1] == []
    assert keys == stored.keys()
    expected: dict[str, Counter[str]] = {}
    for row in rows:
        expected.setdefault(row["user_id"], Counter())[row["event_type"]] += 1
    assert expected == {row["user_id"]: Counter(orjson.loads(row["counts"])) for row in profiles}
    print(f"{len(acknowledged)} acknowledged, {len(rows)} stored, {3 * KILLS + POSTGRES_KILLS} kills")  # noqa: T201
