"""Token buckets in a real Redis: shared, exact over time, and local while Redis is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.embedded import Parts
from server.limits.buckets import Bucket, TokenBuckets
from server.stream import connect
from tests.redis_server import OwnRedis


async def _taken(buckets: TokenBuckets, bucket: Bucket, calls: int) -> int:
    return sum([await buckets.take([bucket]) is None for _ in range(calls)])


async def test_replicas_share_a_bucket(parts: Parts) -> None:
    """Two processes together get what one bucket holds, and are told when there is more; a leased token is not lost."""
    bucket = Bucket("aisle:{shared}:limit:tenant", rate=0.01, burst=40)
    first, second = connect(parts.redis_url, timeout_s=5), connect(parts.redis_url, timeout_s=5)
    try:
        one, two = TokenBuckets(first), TokenBuckets(second)
        taken = 0
        for _ in range(30):
            taken += await _taken(one, bucket, 1) + await _taken(two, bucket, 1)
        assert taken == 40
        refused = await one.take([bucket])
        assert refused is not None
        assert refused[0] is bucket
        assert 50 < refused[1] <= 100  # a token comes in 100 seconds
    finally:
        await first.aclose()
        await second.aclose()


async def test_tokens_come_back_at_the_rate(parts: Parts) -> None:
    """A bucket that was emptied is full again after burst / rate seconds, no sooner than its rate allows."""
    bucket = Bucket("aisle:{refill}:limit:tenant", rate=1000, burst=100)
    client = connect(parts.redis_url, timeout_s=5)
    loop = asyncio.get_running_loop()
    try:
        buckets = TokenBuckets(client)
        began = loop.time()
        taken = 0
        while loop.time() - began < 0.5:
            taken += await _taken(buckets, bucket, 10)
            await asyncio.sleep(0.001)
        passed = loop.time() - began
        # Nothing beyond burst + rate x time comes out, but what a lease was rounded up by.
        assert 100 < taken <= 100 + 1000 * passed + 1
    finally:
        await client.aclose()


async def test_a_token_is_taken_of_all_buckets_or_of_none(parts: Parts) -> None:
    """A tenant's empty bucket costs its keys nothing: what is left in a key's bucket is there when the tenant has room again."""
    key = Bucket("aisle:{pair}:limit:key:a", rate=0.001, burst=5)
    tenant = Bucket("aisle:{pair}:limit:tenant", rate=0.001, burst=2)
    client = connect(parts.redis_url, timeout_s=5)
    try:
        buckets = TokenBuckets(client)
        answers = [await buckets.take([key, tenant]) for _ in range(10)]
        assert [answer is None for answer in answers] == [True] * 2 + [False] * 8
        assert all(answer is None or answer[0] is tenant for answer in answers)
        assert await _taken(buckets, key, 10) == 3
    finally:
        await client.aclose()


async def test_calls_that_come_together_take_no_more_than_there_is(parts: Parts) -> None:
    """500 calls at once on a bucket of 100 get 100, and ask Redis by leases, not one by one."""
    bucket = Bucket("aisle:{together}:limit:tenant", rate=100, burst=100)
    client = connect(parts.redis_url, timeout_s=5)
    try:
        buckets = TokenBuckets(client)
        before = (await client.info("commandstats")).get("cmdstat_evalsha", {}).get("calls", 0)
        answers = await asyncio.gather(*(buckets.take([bucket]) for _ in range(500)))
        asked = (await client.info("commandstats"))["cmdstat_evalsha"]["calls"] - before
        assert sum(answer is None for answer in answers) in range(100, 200)
        assert asked <= 60
    finally:
        await client.aclose()


@pytest.fixture
async def own_redis(scratch: str, tmp_path: Path) -> AsyncIterator[OwnRedis]:
    """A Redis to kill."""
    redis = OwnRedis(tmp_path)
    await redis.start()
    yield redis
    await redis.kill()


@pytest.mark.parametrize("fault", ["kill", "pause"])
async def test_without_redis_limits_hold_in_each_process(own_redis: OwnRedis, fault: str) -> None:
    """A dead or a hanging Redis neither stops calls nor frees them of limits: a bucket of the same size stands in."""
    bucket = Bucket("aisle:{local}:limit:tenant", rate=0.001, burst=7)
    client = connect(own_redis.url, timeout_s=0.2)
    try:
        buckets = TokenBuckets(client)
        assert await buckets.take([Bucket("aisle:{local}:limit:key:other", rate=1, burst=1)]) is None
        await own_redis.kill() if fault == "kill" else own_redis.pause()
        assert await _taken(buckets, bucket, 20) == 7
    finally:
        if fault == "pause":
            own_redis.resume()
        await client.aclose()


async def test_redis_is_used_again_when_it_is_back(own_redis: OwnRedis) -> None:
    """After an outage buckets are shared again."""
    now_s = 1000.0
    client = connect(own_redis.url, timeout_s=5)
    try:
        buckets = TokenBuckets(client, clock=lambda: now_s)
        await own_redis.kill()
        bucket = Bucket("aisle:{back}:limit:tenant", rate=0.001, burst=3)
        assert await _taken(buckets, bucket, 5) == 3
        await own_redis.start()
        now_s += 60
        other = Bucket("aisle:{back}:limit:key:b", rate=0.001, burst=3)
        assert await _taken(buckets, other, 2) == 2
        assert await client.exists(other.name)
    finally:
        await client.aclose()
