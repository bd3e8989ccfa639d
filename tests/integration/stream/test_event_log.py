from __future__ import annotations

import asyncio
import contextlib

import pytest
from redis.asyncio import Redis

from server.domain import Event, TenantId, UserId
from server.errors import InvalidFieldError, UnavailableError
from server.stream import EventLog, connect
from tests.event_factories import event
from tests.eventually import eventually
from tests.redis_server import OwnRedis

ACME = TenantId("acme")


async def _stored(log: EventLog, tenant_id: TenantId, entry_ids: list[str]) -> list[Event]:
    """Returns what Redis holds: another log of the same stream remembers nothing of its own."""
    entries = [await EventLog(log._redis).read_entry(tenant_id, entry_id) for entry_id in entry_ids]
    return [one for entry in entries if entry is not None for one in entry]


async def test_acknowledged_events_are_in_the_named_entries(own_redis: OwnRedis) -> None:
    """The entries that an append names hold its events, in order, a hundred an entry."""
    async with connect(own_redis.url, timeout_s=2.0) as client, EventLog(client).running() as log:
        made = [event(number) for number in range(250)]
        entry_ids = await log.append(ACME, made)
        assert len(entry_ids) == 3
        assert made == await _stored(log, ACME, entry_ids)
        assert await log.append(ACME, []) == []


async def test_appends_that_meet_share_entries(own_redis: OwnRedis) -> None:
    """Appends at one time are packed together by tenant, and each learns its own entry."""
    async with connect(own_redis.url, timeout_s=2.0) as client, EventLog(client).running() as log:
        tenants = [ACME, TenantId("other")]
        answers = await asyncio.gather(*(log.append(tenants[number % 2], [event(number)]) for number in range(60)))
        assert await client.xlen("aisle:{acme}:events") == 1
        assert await client.xlen("aisle:{other}:events") == 1
        for number, entry_ids in enumerate(answers):
            assert event(number) in await _stored(log, tenants[number % 2], entry_ids)
            assert event(number) not in await _stored(log, tenants[(number + 1) % 2], entry_ids)


async def test_large_events_make_more_entries(own_redis: OwnRedis) -> None:
    """Entries are bounded in bytes as well as in events."""
    async with connect(own_redis.url, timeout_s=2.0) as client, EventLog(client).running() as log:
        made = [event(number, properties={"note": "x" * 200_000}) for number in range(4)]
        entry_ids = await log.append(ACME, made)
        assert len(entry_ids) == 2
        assert made == await _stored(log, ACME, entry_ids)


async def test_one_bad_event_stores_nothing_of_its_call(own_redis: OwnRedis) -> None:
    """An event that cannot be stored refuses its call, and no other."""
    async with connect(own_redis.url, timeout_s=2.0) as client, EventLog(client).running() as log:
        good = asyncio.create_task(log.append(ACME, [event(1)]))
        with pytest.raises(InvalidFieldError):
            await log.append(ACME, [event(2), event(3, user_id=UserId(""))])
        assert [event(1)] == await _stored(log, ACME, await good)


async def test_a_caller_that_gives_up_does_not_take_others_along(own_redis: OwnRedis) -> None:
    """Cancelling one append leaves those that share its entry alone."""
    async with connect(own_redis.url, timeout_s=2.0) as client, EventLog(client).running() as log:
        leaving = asyncio.create_task(log.append(ACME, [event(1)]))
        staying = asyncio.create_task(log.append(ACME, [event(2)]))
        await asyncio.sleep(0)
        leaving.cancel()
        assert event(2) in await _stored(log, ACME, await staying)


async def test_without_redis_nothing_is_acknowledged(own_redis: OwnRedis) -> None:
    """While Redis is dead an append fails and says so; when it is back appends work and what was acknowledged before is there."""
    async with connect(own_redis.url, timeout_s=0.5) as client, EventLog(client, patience_s=0.2).running() as log:
        before = await log.append(ACME, [event(1)])
        await own_redis.kill()
        with pytest.raises(UnavailableError, match="redis"):
            await log.append(ACME, [event(2)])
        with pytest.raises(UnavailableError, match="redis"):
            await _stored(log, ACME, before)
        assert await log.read_entry(ACME, before[0]) == [event(1)], "what this process wrote a moment ago it knows without Redis"
        await own_redis.start()
        assert [event(1)] == await _stored(log, ACME, before)
        assert [event(3)] == await _stored(log, ACME, await log.append(ACME, [event(3)]))


async def test_a_restart_of_redis_is_waited_for(own_redis: OwnRedis) -> None:
    """An append that meets a restart is acknowledged after it, not refused."""
    async with connect(own_redis.url, timeout_s=0.5) as client, EventLog(client, patience_s=20.0).running() as log:
        await log.append(ACME, [event(1)])
        await own_redis.kill()
        waiting = asyncio.create_task(log.append(ACME, [event(2)]))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await own_redis.start()
        assert [event(2)] == await _stored(log, ACME, await waiting)


async def test_a_redis_that_is_full_says_so(own_redis: OwnRedis) -> None:
    """When Redis refuses a write for want of memory the caller is told, and the log goes on."""
    async with connect(own_redis.url, timeout_s=0.5) as client, EventLog(client, patience_s=0.2).running() as log:
        await client.config_set("maxmemory", 1)
        with pytest.raises(UnavailableError, match="refused the events"):
            await log.append(ACME, [event(1)])
        await client.config_set("maxmemory", 0)
        assert await log.append(ACME, [event(1)])


async def test_stopping_flushes_what_was_accepted(own_redis: OwnRedis) -> None:
    """Appends under way when the log stops are written and acknowledged; later ones are refused."""
    async with connect(own_redis.url, timeout_s=2.0) as client:
        log = EventLog(client)
        async with log.running():
            under_way = [asyncio.create_task(log.append(ACME, [event(number)])) for number in range(20)]
            await asyncio.sleep(0)
        assert all([await one for one in under_way])
        with pytest.raises(UnavailableError, match="stopping"):
            await log.append(ACME, [event(99)])


async def test_entries_that_are_gone_or_never_were_are_none(redis_client: Redis) -> None:
    """An entry that is not in the stream reads as None."""
    log = EventLog(redis_client)
    assert await log.read_entry(TenantId("nobody"), "1-1") is None


async def test_a_redis_that_hangs_is_refused_until_it_answers(own_redis: OwnRedis) -> None:
    """Who waits for a hung Redis is told when to come back, later callers without waiting for it; when it answers appends work again."""
    async with connect(own_redis.url, timeout_s=60.0) as client, EventLog(client, answer_s=0.3).running() as log:
        before = await log.append(ACME, [event(1)])
        own_redis.pause()
        waiting = [asyncio.create_task(log.append(ACME, [event(number)])) for number in (2, 3)]
        for one in waiting:
            with pytest.raises(UnavailableError, match="does not answer") as refused:
                await one
            assert refused.value.retry_after_s > 0
        with pytest.raises(UnavailableError, match="does not answer"):
            log.append(ACME, [event(4)]).send(None)  # ends in its first step
        own_redis.resume()
        after: list[str] = []

        async def taken() -> bool:
            with contextlib.suppress(UnavailableError):
                after.extend(await log.append(ACME, [event(2), event(3)]))
            return bool(after)

        await eventually(taken)
        assert await _stored(log, ACME, before) == [event(1)]
        assert await _stored(log, ACME, after) == [event(2), event(3)]
