from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from prometheus_client import REGISTRY
from redis.asyncio import Redis

from server.domain import Decision, DecisionId, TenantId, UserId
from server.domain.decisions import Ranking
from server.stream import DecisionLog, Invalidations, StreamConsumer, connect
from server.stream.codec import decode_decision, pack, unpack
from server.stream.consumer import PAYLOAD
from tests.event_factories import NOON
from tests.eventually import eventually
from tests.redis_server import OwnRedis

ACME = TenantId("acme")
DECISION = Decision(
    decision_id=DecisionId("d0"),
    user_id=UserId("ann"),
    method="RecommendItems",
    decide_time=NOON,
    ranking=Ranking.of(("a",), (1.0,), (1.0,)),
)


def _decisions(count: int) -> list[Decision]:
    return [replace(DECISION, decision_id=DecisionId(f"d{number}")) for number in range(count)]


async def _written(client: Redis) -> list[Decision]:
    consumer = StreamConsumer(client, stream="decisions", name="reader", block_s=0.05)
    entries = (await consumer.read([ACME])).get(ACME, [])
    return [decode_decision(record) for entry in entries for record in unpack(entry.payload)]


async def test_recorded_decisions_reach_the_stream_in_order(own_redis: OwnRedis) -> None:
    """Leaving the log writes all that was recorded."""
    made = _decisions(120)
    async with connect(own_redis.url, timeout_s=2.0) as client:
        async with DecisionLog(client).running() as log:
            for decision in made:
                log.record(ACME, decision)
        assert made == await _written(client)


async def test_decisions_wait_for_redis_and_the_oldest_leave_first(own_redis: OwnRedis) -> None:
    """While Redis is dead, recording neither blocks nor fails; the newest that fit are written when it is back."""
    made = _decisions(30)
    dropped = REGISTRY.get_sample_value("aisle_decisions_dropped_total") or 0
    await own_redis.kill()
    async with connect(own_redis.url, timeout_s=0.5) as client:
        async with DecisionLog(client, capacity=20).running() as log:
            for decision in made:
                log.record(ACME, decision)
            assert log.dropped == 10
            assert REGISTRY.get_sample_value("aisle_decisions_dropped_total") == dropped + 10
            await asyncio.sleep(0.2)
            await own_redis.start()
        assert made[10:] == await _written(client)


async def test_a_decision_that_is_no_json_is_dropped_alone(own_redis: OwnRedis) -> None:
    """A record that cannot be written is dropped; the one after it is not."""
    async with connect(own_redis.url, timeout_s=2.0) as client:
        async with DecisionLog(client).running() as log:
            log.record(ACME, replace(DECISION, context={"page": "\ud800"}))
            log.record(ACME, DECISION)
        assert await _written(client) == [DECISION]
        assert log.dropped == 1


async def test_every_listener_hears_an_invalidation(own_redis: OwnRedis) -> None:
    """All listeners, the sender's own too, hear what changed; after a restart of Redis they learn that they may have missed some."""
    heard: list[list[tuple[str, str, list[str]]]] = [[], []]
    async with connect(own_redis.url, timeout_s=2.0) as client:
        bus = Invalidations(client)

        def hear(number: int, tenant_id: TenantId, kind: str, keys: Sequence[str]) -> None:
            heard[number].append((tenant_id, kind, list(keys)))

        async def until(count: int) -> None:
            async def reached() -> bool:
                return min(map(len, heard)) >= count

            await eventually(reached)

        async with (
            bus.listen(lambda tenant_id, kind, keys: hear(0, tenant_id, kind, keys)),
            bus.listen(lambda tenant_id, kind, keys: hear(1, tenant_id, kind, keys)),
        ):
            await until(1)
            await bus.publish(ACME, "user", ["ann", "bob"])
            await until(2)
            await own_redis.kill()
            await own_redis.start()
            await until(3)
            await bus.publish(ACME, "user", ["eve"])
            await until(4)
    missed = ("", "", [])
    assert [[missed, ("acme", "user", ["ann", "bob"]), missed, ("acme", "user", ["eve"])]] * 2 == heard


async def test_members_of_dead_names_are_struck_off(own_redis: OwnRedis) -> None:
    """A member that left nothing behind is deleted once it is idle; one that holds an entry stays until another takes that over."""
    async with connect(own_redis.url, timeout_s=2.0) as client:
        await client.xadd("aisle:{acme}:events", {PAYLOAD: pack([])})
        for name in ("holder", "idler"):
            await StreamConsumer(client, stream="events", name=name, block_s=0.05).read([ACME])
        await asyncio.sleep(0.3)

        async def members(name: str, **patience: float) -> list[bytes]:
            await StreamConsumer(client, stream="events", name=name, block_s=0.05, **patience).read([ACME])
            return sorted(member["name"] for member in await client.xinfo_consumers("aisle:{acme}:events", "workers"))

        assert await members("patient") == [b"holder", b"idler", b"patient"]
        assert await members("heir", forget_idle_s=0.2) == [b"heir", b"holder", b"patient"]


async def test_listening_ends_whenever_it_is_left(own_redis: OwnRedis) -> None:
    """Leaving ends the listener, also while its connection is being opened."""
    async with connect(own_redis.url, timeout_s=2.0) as client:
        for number in range(60):
            async with asyncio.timeout(30), Invalidations(client).listen(lambda *_: None):
                for _ in range(number):
                    await asyncio.sleep(0)
