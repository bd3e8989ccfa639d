from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from server.cache import Cache, MemoryCache
from server.cache.shared import SharedCache
from server.domain import TenantId
from server.stream import Invalidations, connect
from tests.eventually import eventually
from tests.redis_server import OwnRedis

ACME = TenantId("acme")


@dataclass
class Source:
    """What is cached: a value that changes, and how often it was asked for."""

    value: bytes = b"one"
    asked: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def compute(self) -> bytes:
        """Returns the value of now."""
        self.asked += 1
        return self.value

    async def compute_slowly(self) -> bytes:
        """Takes the value, then waits for the gate: what it returns may be old by then."""
        value = await self.compute()
        await self.gate.wait()
        return value


@asynccontextmanager
async def _replica(url: str) -> AsyncIterator[Cache]:
    """One process's cache, wired as the server wires it, and listening."""
    async with connect(url, timeout_s=0.05) as client, connect(url, timeout_s=1.0) as bus_client:
        bus = Invalidations(bus_client)
        listening = asyncio.Event()
        cache = Cache(MemoryCache(1_000_000), SharedCache(client), bus.publish)

        def heard(tenant_id: TenantId, kind: str, keys: Sequence[str]) -> None:
            listening.set()
            cache.forget(tenant_id, kind, keys)

        async with bus.listen(heard):
            await asyncio.wait_for(listening.wait(), 20)
            yield cache


@pytest.fixture
async def replicas(own_redis: OwnRedis) -> AsyncIterator[list[Cache]]:
    """Two processes' caches over one Redis."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(_replica(own_redis.url)) for _ in range(2)]


async def _read(cache: Cache, compute: Callable[[], Awaitable[bytes]], key: str = "ann") -> tuple[bytes, str]:
    found = await cache.get_or_compute("user", ACME, key, 60.0, compute)
    return found.value, found.level


async def _reads(cache: Cache, source: Source, value: bytes) -> bool:
    return (await _read(cache, source.compute))[0] == value


async def test_a_value_is_computed_once_and_found_near(replicas: list[Cache]) -> None:
    """The first read computes, the second finds it in process, another replica finds it in Redis and then in process."""
    source = Source()
    near, far = replicas
    levels = [(await _read(cache, source.compute))[1] for cache in (near, near, far, far)]
    assert levels == ["miss", "l1", "l2", "l1"]
    assert source.asked == 1


async def test_tenants_kinds_and_keys_do_not_meet(replicas: list[Cache]) -> None:
    """The same key of another tenant or kind is another entry."""
    source = Source()
    cache = replicas[0]
    for tenant_id in (ACME, TenantId("other")):
        for kind in ("user", "list"):
            for key in ("a", "b"):
                await cache.get_or_compute(kind, tenant_id, key, 60.0, source.compute)
    assert source.asked == 8


async def test_those_who_ask_together_wait_for_one_computation(replicas: list[Cache]) -> None:
    """Fifty callers cause one computation, and one that gives up does not spoil it for the rest."""
    source = Source()
    cache = replicas[0]
    callers = [asyncio.create_task(_read(cache, source.compute_slowly)) for _ in range(50)]
    await asyncio.sleep(0.05)
    callers[0].cancel()
    source.gate.set()
    assert await asyncio.gather(*callers[1:]) == [(b"one", "miss")] * 49
    assert source.asked == 1


async def test_an_invalidation_is_seen_by_every_replica(replicas: list[Cache]) -> None:
    """After one replica invalidates a key, no replica answers with the old value."""
    source = Source()
    near, far = replicas
    for cache in replicas:
        await _read(cache, source.compute)
    source.value = b"two"
    await near.invalidate(ACME, "user", ["ann"])
    assert await _read(near, source.compute) == (b"two", "miss")
    await eventually(lambda: _reads(far, source, b"two"))


@pytest.mark.parametrize("invalidator", [0, 1], ids=["the replica that computes", "another replica"])
async def test_a_value_computed_before_an_invalidation_is_not_kept(replicas: list[Cache], invalidator: int) -> None:
    """A computation that an invalidation overtakes answers its caller, but neither level keeps what it made."""
    source = Source()
    computing = asyncio.create_task(_read(replicas[0], source.compute_slowly))
    await asyncio.sleep(0.05)
    source.value = b"two"
    await replicas[invalidator].invalidate(ACME, "user", ["ann"])
    source.gate.set()
    assert await computing == (b"one", "miss")
    await eventually(lambda: _reads(replicas[0], source, b"two"))
    assert (await _read(replicas[1], source.compute))[0] == b"two"


async def test_errors_reach_all_who_wait_and_are_not_kept(replicas: list[Cache]) -> None:
    """A failed computation fails for everyone who waited; the next caller computes again."""
    source = Source()

    async def fail() -> bytes:
        await source.compute()
        raise LookupError("nothing there")

    answers = await asyncio.gather(*(_read(replicas[0], fail) for _ in range(5)), return_exceptions=True)
    assert [LookupError] * 5 == [type(answer) for answer in answers]
    assert source.asked == 1
    assert await _read(replicas[0], source.compute) == (b"one", "miss")


@pytest.mark.parametrize("hangs", [False, True], ids=["dead", "hanging"])
async def test_without_redis_it_still_answers(replicas: list[Cache], own_redis: OwnRedis, hangs: bool) -> None:  # noqa: FBT001  # a parameter
    """With Redis dead or hanging, values are computed and kept in process, and invalidation works there."""
    source = Source()
    cache = replicas[0]
    if hangs:
        own_redis.pause()
    else:
        await own_redis.kill()
    assert await _read(cache, source.compute) == (b"one", "miss")
    assert await _read(cache, source.compute) == (b"one", "l1")
    source.value = b"two"
    await cache.invalidate(ACME, "user", ["ann"])
    assert await _read(cache, source.compute) == (b"two", "miss")
    if hangs:
        own_redis.resume()


async def test_an_invalidation_that_redis_missed_is_made_up_for(replicas: list[Cache], own_redis: OwnRedis) -> None:
    """A key invalidated while Redis was dead does not come back with Redis, on any replica that asks after."""
    source = Source()
    near, far = replicas
    assert await _read(far, source.compute) == (b"one", "miss")
    await own_redis.kill()
    source.value = b"two"
    await near.invalidate(ACME, "user", ["ann"])
    await own_redis.start()
    assert (await _read(near, source.compute))[0] == b"two"

    async def settled() -> bool:
        near.forget(ACME, "user", ["other"])
        await _read(near, source.compute, key="other")
        return not near._owed

    await eventually(settled)
    await eventually(lambda: _reads(far, source, b"two"))


async def test_closing_ends_what_nobody_waits_for(replicas: list[Cache]) -> None:
    """A computation whose caller gave up is over when the cache is closed, and does not outlive what it reads from."""
    source = Source()
    waiting = asyncio.create_task(_read(replicas[0], source.compute_slowly))

    async def begun() -> bool:
        return bool(source.asked)

    await eventually(begun)
    waiting.cancel()
    others = asyncio.all_tasks()
    await replicas[0].close()
    assert [task.get_name() for task in others & asyncio.all_tasks() if "Cache._fly" in str(task.get_coro())] == []
