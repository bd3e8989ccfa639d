"""Token buckets that all replicas share in Redis, taken from in small leases.

A call does not ask Redis. A process takes a tenth of a second's tokens at once, for the bucket of the key and that of the tenant in one
script, and spends them from memory: at most ten round trips a second and bucket, however many calls come. That matters twice: Redis
syncs each write to disk, since acknowledged events live in it, and a script writes. The price is that a process may hold a tenth of a
second's tokens which another could use.

Source: the token bucket, as in RFC 2697.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import redis.asyncio
from cachetools import LRUCache
from redis.exceptions import RedisError

from server.telemetry import logger

LEASE_S = 0.1
"""Seconds of a bucket's rate that a process takes at once, and may hold unspent for ten times as long."""

_KEPT_S = 10 * LEASE_S
_MOST_BUCKETS = 10_000
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 5.0

_TAKE = """
local now = redis.call('TIME')
local time = now[1] + now[2] / 1000000
local answer = {}
for index, key in ipairs(KEYS) do
    local rate, burst, most = tonumber(ARGV[3 * index - 2]), tonumber(ARGV[3 * index - 1]), tonumber(ARGV[3 * index])
    local found = redis.call('HMGET', key, 'tokens', 'time')
    local tokens = math.min(burst, (tonumber(found[1]) or burst) + math.max(0, time - (tonumber(found[2]) or time)) * rate)
    local granted = math.min(most, math.floor(tokens))
    redis.call('HSET', key, 'tokens', string.format('%.6f', tokens - granted), 'time', string.format('%.6f', time))
    redis.call('PEXPIRE', key, math.ceil(burst / rate * 1000) + 1000)
    answer[2 * index - 1] = granted
    answer[2 * index] = string.format('%.6f', math.max(0, 1 - (tokens - granted)) / rate)
end
return answer
"""
"""KEYS: buckets, all in one slot. ARGV: for each, tokens a second, most tokens it holds, most that are wanted. Returns for each the
tokens taken, and seconds until there is one more. A bucket that is full is forgotten."""

_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket's name and size."""

    name: str
    """The key in Redis. Buckets that are taken from together share a hash tag."""
    rate: float
    """Tokens that come in each second, above 0."""
    burst: float
    """Tokens it holds when full, at least 1."""


@dataclass(slots=True)
class _State:
    """What this process holds of a bucket."""

    tokens: int = 0
    tokens_until_s: float = 0.0
    empty_until_s: float = 0.0
    """Until then Redis has none, so it is not asked."""
    local_tokens: float = math.inf
    """Of the bucket that stands in while Redis is away; infinity: not begun, so full."""
    local_s: float = 0.0
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class TokenBuckets:
    """Takes tokens. While Redis is away each process keeps buckets of the same rates for itself."""

    def __init__(self, client: redis.asyncio.Redis, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`client`: With a timeout short enough to wait for in a request, such as 50 ms. `clock`: Seconds that only grow."""
        self._take = client.register_script(_TAKE)
        self._clock = clock
        self._states: LRUCache[str, _State] = LRUCache(maxsize=_MOST_BUCKETS)
        self._closed_until_s = 0.0
        self._pause_s = _FIRST_PAUSE_S

    async def take(self, buckets: Sequence[Bucket]) -> tuple[Bucket, float] | None:
        """Takes one token of each bucket, or none of any.

        Returns:
            None if they were taken, else the bucket that is empty and the seconds until it is worth asking again.
        """
        states = [self._state(bucket) for bucket in buckets]
        if not all(self._holds(state) for state in states):
            # Calls that come together ask once: the first one asks, the others find what it got.
            async with states[0].asking:
                missing = [(bucket, state) for bucket, state in zip(buckets, states, strict=True) if not self._holds(state)]
                if missing:
                    await self._refill(missing)
        for bucket, state in zip(buckets, states, strict=True):
            if not self._holds(state):
                return bucket, max(0.001, state.empty_until_s - self._clock())
        for state in states:
            state.tokens -= 1
        return None

    def _state(self, bucket: Bucket) -> _State:
        state = self._states.get(bucket.name)
        if state is None:
            state = self._states[bucket.name] = _State()
        return state

    def _holds(self, state: _State) -> bool:
        return state.tokens >= 1 and self._clock() < state.tokens_until_s

    async def _refill(self, missing: Sequence[tuple[Bucket, _State]]) -> None:
        now = self._clock()
        asked = [(bucket, state) for bucket, state in missing if now >= state.empty_until_s]
        if not asked:
            return
        wanted = [max(1, int(bucket.rate * LEASE_S)) for bucket, _ in asked]
        granted: Sequence[tuple[int, float]]
        if now >= self._closed_until_s:
            arguments = [value for (bucket, _), most in zip(asked, wanted, strict=True) for value in (bucket.rate, bucket.burst, most)]
            try:
                answer = await self._take(keys=[bucket.name for bucket, _ in asked], args=arguments)
                granted = [(int(tokens), float(wait_s)) for tokens, wait_s in zip(answer[::2], answer[1::2], strict=True)]
                self._pause_s = _FIRST_PAUSE_S
            except (RedisError, OSError) as error:
                self._failed(error)
                granted = [self._local(bucket, state, most) for (bucket, state), most in zip(asked, wanted, strict=True)]
        else:
            granted = [self._local(bucket, state, most) for (bucket, state), most in zip(asked, wanted, strict=True)]
        now = self._clock()
        for (_, state), (tokens, wait_s) in zip(asked, granted, strict=True):
            # Calls of another key may have asked for the tenant's bucket meanwhile: what they got is not thrown away.
            state.tokens = tokens + (state.tokens if self._holds(state) else 0)
            state.tokens_until_s = now + _KEPT_S
            if not tokens:
                state.empty_until_s = now + wait_s

    def _local(self, bucket: Bucket, state: _State, most: int) -> tuple[int, float]:
        """Returns what the script would, of a bucket in this process."""
        now = self._clock()
        tokens = min(bucket.burst, state.local_tokens + (now - state.local_s) * bucket.rate)
        granted = min(most, int(tokens))
        state.local_tokens, state.local_s = tokens - granted, now
        return granted, max(0.0, 1 - state.local_tokens) / bucket.rate

    def _failed(self, error: Exception) -> None:
        _log.warning("rate_limits_are_local", error=repr(error), pause_s=self._pause_s)
        self._closed_until_s = self._clock() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
