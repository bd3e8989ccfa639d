from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import asyncpg
import orjson
import pytest
from redis.asyncio import Redis

from server.domain import Event, EventId, Profile, TenantId, UserId
from server.domain.history import overlay
from server.embedded import Parts
from server.store import Database, open_database
from server.store.migrate import migrate
from server.store.profiles import get_profile
from server.store.sequences import AppliedEvents
from server.store.tenants import create_tenant
from server.stream import EventLog, StreamConsumer
from server.stream.codec import encode_event, pack
from server.worker import event_worker
from tests.event_factories import event
from tests.eventually import eventually

ANN = UserId("ann")


def _only(tenant_id: TenantId) -> Callable[[], Awaitable[Sequence[TenantId]]]:
    async def tenants() -> Sequence[TenantId]:
        return [tenant_id]

    return tenants


def _key(tenant_id: TenantId) -> str:
    return f"aisle:{{{tenant_id}}}:events"


async def _drained(client: Redis, tenant_id: TenantId) -> None:
    async def empty() -> bool:
        return await client.xlen(_key(tenant_id)) == 0

    await eventually(empty)


async def _profile(database: Database, tenant_id: TenantId, user_id: UserId = ANN) -> Profile:
    async with database.tenant(tenant_id) as connection:
        return await get_profile(connection, tenant_id, user_id) or Profile(user_id=user_id)


async def _ids(database: Database, tenant_id: TenantId) -> list[str]:
    async with database.tenant(tenant_id) as connection:
        return [row[0] for row in await connection.fetch("SELECT event_id FROM events ORDER BY event_id")]


async def _dead(client: Redis, tenant_id: TenantId) -> list[tuple[bytes, str]]:
    return [(fields[b"p"], fields[b"reason"].decode()) for _, fields in await client.xrange(f"{_key(tenant_id)}:dead")]


async def test_acknowledged_events_reach_the_profile_and_leave_the_stream(
    redis_client: Redis, database: Database, tenant_id: TenantId
) -> None:
    """Events go from the log through the worker into table and profile, each once, and listeners learn of them."""
    applied: list[Event] = []
    touched: list[UserId] = []

    async def on_applied(_tenant_id: TenantId, told: AppliedEvents) -> None:
        applied.extend(told.events)

    async def on_touched(_tenant_id: TenantId, users: Sequence[UserId]) -> None:
        touched.extend(users)

    made = [event(number) for number in range(150)]
    worker = event_worker(redis_client, database, _only(tenant_id), name="w", on_applied=on_applied, on_touched=on_touched)
    async with EventLog(redis_client).running() as log, worker.running():
        await log.append(tenant_id, made)
        await log.append(tenant_id, made[:50])
        await _drained(redis_client, tenant_id)
    assert sorted(one.event_id for one in made) == await _ids(database, tenant_id)
    profile = await _profile(database, tenant_id)
    assert profile.engagement_history == {"view": 150}
    assert made == applied
    assert set(touched) == {ANN}


async def test_a_dead_worker_s_entries_are_taken_over_and_count_once(redis_client: Redis, database: Database, tenant_id: TenantId) -> None:
    """Entries that a worker committed but did not remove, and entries it only read, are handled by another, each event once."""
    dead = StreamConsumer(redis_client, stream="events", name="dead", count=1)
    touched: list[UserId] = []

    async def on_touched(_tenant_id: TenantId, users: Sequence[UserId]) -> None:
        touched.extend(users)

    async with EventLog(redis_client).running() as log:
        for number in range(3):
            await log.append(tenant_id, [event(number)])
    # It dies between commit and removal of the first, and having read the second.
    first = event_worker(redis_client, database, _only(tenant_id), name="dead")
    await first._handler.apply(tenant_id, [event(0)])
    assert len((await dead.read([tenant_id]))[tenant_id]) == 1
    dead._own_first = False
    assert len((await dead.read([tenant_id]))[tenant_id]) == 1
    heir = event_worker(redis_client, database, _only(tenant_id), name="heir", reclaim_idle_s=0.1, on_touched=on_touched)
    async with heir.running():
        await _drained(redis_client, tenant_id)
    assert await _ids(database, tenant_id) == ["e0", "e1", "e2"]
    assert (await _profile(database, tenant_id)).engagement_history == {"view": 3}
    assert touched  # also for the event that was committed before: its listeners were never told


async def test_poison_is_buried_with_its_bytes_and_the_rest_is_applied(
    redis_client: Redis, database: Database, tenant_id: TenantId
) -> None:
    """Undecodable entries, and events that the database refuses, go to the dead-letter stream one by one; their neighbours count."""
    bad = orjson.loads(encode_event(event(2)))
    bad["session"] = "nul \0 here"
    huge = orjson.loads(encode_event(event(4, event_id=EventId("x"))))
    huge["id"] = "".join(chr(0x4E00 + number * 7 % 20000) for number in range(9000))  # past what an index row may hold
    mixed = pack([encode_event(event(1)), b'{"id":"e9"}', orjson.dumps(bad), encode_event(event(3)), orjson.dumps(huge)])
    garbage = b"\x00 not json"
    for payload in (garbage, mixed):
        await redis_client.xadd(_key(tenant_id), {b"p": payload})
    async with event_worker(redis_client, database, _only(tenant_id), name="w").running():
        await _drained(redis_client, tenant_id)
    assert await _ids(database, tenant_id) == ["e1", "e3"]
    dead = await _dead(redis_client, tenant_id)
    assert {garbage, orjson.dumps([bad]), orjson.dumps([huge]), b'[{"id":"e9"}]'} == {payload for payload, _ in dead}
    assert all(reason for _, reason in dead)


@pytest.fixture
async def fragile(parts: Parts) -> AsyncIterator[tuple[str, str]]:
    """URLs of a migrated database of the test's own, and of one to govern it from."""
    govern = await asyncpg.connect(parts.database_url)
    await govern.execute("CREATE DATABASE fragile")
    url = parts.database_url.replace("@/aisle?", "@/fragile?")
    await migrate(url)
    yield url, parts.database_url
    await govern.execute("DROP DATABASE fragile WITH (FORCE)")
    await govern.close()


async def test_without_database_nothing_is_lost(redis_client: Redis, fragile: tuple[str, str]) -> None:
    """While the database is down events stay in the stream, and a stop does not hang; they are applied when it is back."""
    url, governing_url = fragile
    tenant_id = TenantId("fragile")
    govern = await asyncpg.connect(governing_url)
    async with open_database(url) as database, EventLog(redis_client).running() as log:
        async with database.system() as connection:
            await create_tenant(connection, tenant_id)
        async with event_worker(redis_client, database, _only(tenant_id), name="w").running():
            await govern.execute("ALTER DATABASE fragile ALLOW_CONNECTIONS false")
            await govern.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'fragile'")
            await log.append(tenant_id, [event(number) for number in range(10)])
            await asyncio.sleep(0.5)
            assert await redis_client.xlen(_key(tenant_id)) == 1
        assert await redis_client.xlen(_key(tenant_id)) == 1
        async with event_worker(redis_client, database, _only(tenant_id), name="w").running():
            await govern.execute("ALTER DATABASE fragile ALLOW_CONNECTIONS true")
            await _drained(redis_client, tenant_id)
        assert len(await _ids(database, tenant_id)) == 10
        assert await _dead(redis_client, tenant_id) == []
    await govern.close()


async def test_a_stream_that_vanished_is_made_anew(redis_client: Redis, database: Database, tenant_id: TenantId) -> None:
    """A worker goes on after the stream and its group were deleted, as by a Redis that lost its data."""
    async with EventLog(redis_client).running() as log, event_worker(redis_client, database, _only(tenant_id), name="w").running():
        await log.append(tenant_id, [event(1)])
        await _drained(redis_client, tenant_id)
        await redis_client.delete(_key(tenant_id))
        await log.append(tenant_id, [event(2)])
        await _drained(redis_client, tenant_id)
    assert await _ids(database, tenant_id) == ["e1", "e2"]


async def test_a_failing_listener_does_not_hold_events_back(redis_client: Redis, database: Database, tenant_id: TenantId) -> None:
    """Events are applied once also when the listeners raise."""

    async def fail(_tenant_id: TenantId, _users: Sequence[UserId]) -> None:
        raise RuntimeError("listener")

    async with (
        EventLog(redis_client).running() as log,
        event_worker(redis_client, database, _only(tenant_id), name="w", on_touched=fail).running(),
    ):
        await log.append(tenant_id, [event(1)])
        await _drained(redis_client, tenant_id)
    assert await _ids(database, tenant_id) == ["e1"]


async def test_a_reader_with_the_token_sees_its_events_while_the_worker_races(
    redis_client: Redis, database: Database, tenant_id: TenantId
) -> None:
    """Entry first, profile second: every acknowledged event is in the laid-over profile, whenever the worker commits."""
    reader = EventLog(redis_client)  # of another process: it knows of no entry but by Redis
    async with EventLog(redis_client).running() as log, event_worker(redis_client, database, _only(tenant_id), name="w").running():

        async def write_and_read(user: int) -> None:
            entry_ids: list[str] = []
            for number in range(15):
                made = event(number, event_id=EventId(f"{user}-{number}"), user_id=UserId(f"u{user}"))
                entry_ids += await log.append(tenant_id, [made])
                for pause_s in (0.0, 0.003, 0.01):
                    await asyncio.sleep(pause_s)
                    pending = await asyncio.gather(*(reader.read_entry(tenant_id, entry_id) for entry_id in entry_ids))
                    profile = await _profile(database, tenant_id, made.user_id)
                    seen = overlay(profile, [one for entry in pending if entry is not None for one in entry])
                    assert [f"{user}-{earlier}" for earlier in range(number + 1)] == [one.event_id for one in seen.history]

        await asyncio.gather(*(write_and_read(user) for user in range(4)))
