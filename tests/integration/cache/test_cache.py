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
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it was asked for."""

    async def compute(self) -> bytes:
        """Returns the value of now."""
        self.asked += 1
        self.begun.set()
        return self.value

    async def compute_slowly(self) -> bytes:
        """Takes the value, then waits for the gate: what it returns may be old by then."""
        value = await self.compute()
        await self.gate.wait()
        return value


@asynccontextmanager
async def _replica(url: str, *, lock_above_s: float = 60.0) -> AsyncIterator[Cache]:
    """One process's cache, wired as the server wires it, and listening."""
    async with connect(url, timeout_s=0.05) as client, connect(url, timeout_s=1.0) as bus_client:
        bus = Invalidations(bus_client)
        listening = asyncio.Event()
        cache = Cache(MemoryCache(1_000_000), SharedCache(client), bus.publish, lock_above_s=lock_above_s)

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
    levels = []
    for cache in (near, near, far, far):
        levels.append((await _read(cache, source.compute))[1])
        await cache.settled()
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
    await source.begun.wait()
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
    await far.settled()
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


async def test_reads_of_one_turn_share_a_round_trip(replicas: list[Cache]) -> None:
    """A hundred keys of two tenants that are asked for together cost one round trip to Redis."""
    source = Source()
    near, far = replicas
    asked = [(tenant_id, str(number)) for tenant_id in (ACME, TenantId("other")) for number in range(50)]
    await asyncio.gather(*(near.get_or_compute("user", *one, 60.0, source.compute) for one in asked))
    await near.settled()
    before = far._shared.round_trips
    found = await asyncio.gather(*(far.get_or_compute("user", *one, 60.0, source.compute) for one in asked))
    assert [one.level for one in found] == ["l2"] * 100
    assert far._shared.round_trips == before + 1


async def test_a_value_past_its_end_is_shown_while_another_is_made(replicas: list[Cache]) -> None:
    """Within the stale time a reader gets the old value at once, in process and from Redis, and the next one finds the new value."""
    source = Source()
    near, far = replicas
    first = await near.get_or_compute("user", ACME, "ann", 0.05, source.compute, stale_s=60.0)
    await near.settled()
    await asyncio.sleep(0.06)
    source.value = b"two"
    for cache in (far, near):
        shown = await cache.get_or_compute("user", ACME, "ann", 60.0, source.compute_slowly, stale_s=60.0)
        assert (shown.value, shown.expires_in_s) == (first.value, 0.0)
    source.gate.set()
    await far.settled()
    await near.settled()

    async def renewed() -> bool:
        found = [await cache.get_or_compute("user", ACME, "ann", 60.0, source.compute, stale_s=60.0) for cache in replicas]
        return all(one.value == b"two" and one.expires_in_s > 0 for one in found)

    await eventually(renewed)
    assert near.tally(ACME, "user").stale + far.tally(ACME, "user").stale >= 2


async def test_a_value_is_made_anew_before_its_end(replicas: list[Cache]) -> None:
    """A value that takes as long to make as it may be kept is made anew while it can still be shown, and nobody waits."""
    cache = replicas[0]
    made = 0

    async def slowly() -> bytes:
        nonlocal made
        made += 1
        await asyncio.sleep(0.2)
        return b"%d" % made

    async def read() -> str:
        return (await cache.get_or_compute("user", ACME, "ann", 1.0, slowly)).level

    assert await read() == "miss"

    async def renewed() -> bool:
        assert await read() != "miss"
        return made > 1

    await eventually(renewed)
    assert cache.tally(ACME, "user").refreshes >= 1


async def test_what_changes_whenever_it_is_made_anew_is_kept_for_less_long(replicas: list[Cache]) -> None:
    """The time to live falls with each renewal that changed the value, and comes back as renewals find it unchanged."""
    cache = replicas[0]

    async def renew(value: bytes) -> float:
        async def compute() -> bytes:
            return value

        await cache.get_or_compute("user", ACME, "ann", 0.001, compute, stale_s=60.0)
        await asyncio.sleep(0.002)
        await cache.get_or_compute("user", ACME, "ann", 0.001, compute, stale_s=60.0)
        await cache.settled()
        return cache.tally(ACME, "user").volatility

    volatile = [await renew(b"%d" % number) for number in range(10)]
    assert volatile[-1] > volatile[0] > 0 or volatile[-1] > 0
    assert (await cache.get_or_compute("user", ACME, "bob", 100.0, Source().compute)).expires_in_s < 100.0
    calm = [await renew(b"same") for _ in range(10)]
    assert calm[-1] < volatile[-1]


async def _locking(stack: AsyncExitStack, own_redis: OwnRedis) -> list[Cache]:
    replicas = [await stack.enter_async_context(_replica(own_redis.url, lock_above_s=0.0)) for _ in range(2)]
    for cache in replicas:
        await cache.get_or_compute("user", ACME, "first", 60.0, Source().compute)  # what a kind costs is known once one was made
        await cache.settled()
    return replicas


async def test_replicas_wait_for_one_that_computes(own_redis: OwnRedis) -> None:
    """What takes long is made by one replica, and the others get its value."""
    source = Source()
    async with AsyncExitStack() as stack:
        near, far = await _locking(stack, own_redis)
        computing = asyncio.create_task(_read(near, source.compute_slowly))

        async def begun() -> bool:
            return bool(source.asked)

        await eventually(begun)
        waiting = asyncio.create_task(_read(far, source.compute_slowly))
        await asyncio.sleep(0.1)
        source.gate.set()
        assert await computing == (b"one", "miss")
        assert await waiting == (b"one", "l2")
        assert source.asked == 1


@pytest.mark.parametrize("dies", [False, True], ids=["fails", "dies"])
async def test_replicas_do_not_wait_for_ever(own_redis: OwnRedis, dies: bool) -> None:  # noqa: FBT001  # a parameter
    """When the computation that others wait for fails, or its replica dies, another one computes."""
    source = Source()

    async def fail() -> bytes:
        await source.compute_slowly()
        raise LookupError("nothing there")

    async with AsyncExitStack() as stack:
        near, far = await _locking(stack, own_redis)
        computing = asyncio.create_task(_read(near, fail))

        async def begun() -> bool:
            return bool(source.asked)

        await eventually(begun)
        waiting = asyncio.create_task(_read(far, source.compute))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        if not dies:
            source.gate.set()
            with pytest.raises(LookupError):
                await computing
        assert await waiting == (b"one", "miss")
        computing.cancel()
        await near.close()


async def test_a_prefix_is_forgotten_everywhere(replicas: list[Cache]) -> None:
    """After a prefix is invalidated no replica has its keys, also what was being computed; others stay."""
    source = Source()
    near, far = replicas
    for cache in replicas:
        for key in ("ann:1", "ann:2", "bob*:1", "bob:1"):
            await _read(cache, source.compute, key)
            await cache.settled()
    source.value = b"two"
    assert await near.invalidate_prefix(ACME, "user", "ann:") == 2
    assert await near.invalidate_prefix(ACME, "user", "bob*") == 1
    assert (await _read(near, source.compute, "ann:1"))[0] == b"two"
    assert (await _read(near, source.compute, "bob:1"))[0] == b"one"

    async def gone() -> bool:
        return (await _read(far, source.compute, "ann:2"))[0] == b"two"

    await eventually(gone)


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
