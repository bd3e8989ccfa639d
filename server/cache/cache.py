"""Two levels and one computation a key, however many ask."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from redis.exceptions import RedisError

from server.cache.memory import Key, MemoryCache, Stored
from server.cache.shared import SharedCache
from server.domain import TenantId
from server.telemetry import CACHE_READS, logger

USER_VECTOR_TTL_S = 3600.0
RECOMMENDATIONS_TTL_S = 1800.0
CONTENT_TTL_S = 4 * 3600.0

Level = Literal["l1", "l2", "miss"]
Compute = Callable[[], Awaitable[bytes]]
Publish = Callable[[TenantId, str, Sequence[str]], Awaitable[None]]
"""Tells all replicas, this one too, to `forget`."""

_OWED_KEYS = 100_000
_SETTLED_KEYS = 1000
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Cached:
    """A value and where it came from."""

    value: bytes
    level: Level
    """`miss`: it was computed for this call, or for one that came a moment before."""
    expires_in_s: float
    """Seconds it may still be kept. Not negative."""


class Cache:
    """Computed bytes by tenant, kind and key: L1 in process, L2 in Redis, single-flight.

    Errors of `compute` reach everyone who waits for it and are not kept. Redis being down costs its timeout once in a while and is no
    error.
    """

    def __init__(self, memory: MemoryCache, shared: SharedCache, publish: Publish) -> None:
        self._memory = memory
        self._shared = shared
        self._publish = publish
        self._flights: dict[Key, asyncio.Task[Cached]] = {}
        self._owed: dict[Key, None] = {}
        self._tasks: set[asyncio.Task[Cached]] = set()

    async def get_or_compute(self, kind: str, tenant_id: TenantId, key: str, ttl_s: float, compute: Compute) -> Cached:
        """Returns the kept value, or the one that `compute` makes.

        Callers that ask for a key while it is computed wait for the same computation. It goes on when they give up. After `invalidate`
        the next caller starts a new one.

        Args:
            kind: What sort of value, a word of the code; names the metric too.
            tenant_id: The tenant.
            key: Anything within the tenant and kind.
            ttl_s: Seconds a computed value may be kept.
            compute: Makes the value.
        """
        full = Key(tenant_id, kind, key)
        found = self._memory.get(full)
        if found is not None:
            CACHE_READS.labels(kind, "l1").inc()
            return Cached(found.value, "l1", max(0.0, found.expire_time_s - time.time()))
        flight = self._flights.get(full)
        if flight is None:
            flight = asyncio.create_task(self._fly(full, ttl_s, compute))
            self._flights[full] = flight
            self._tasks.add(flight)  # an invalidation takes it out of `_flights`, and the loop alone does not keep a task alive
            flight.add_done_callback(lambda done: self._landed(full, done))
        # A caller that gives up must not take the value from the others.
        cached = await asyncio.shield(flight)
        CACHE_READS.labels(kind, cached.level).inc()
        return cached

    async def invalidate(self, tenant_id: TenantId, kind: str, keys: Sequence[str]) -> None:
        """Makes every replica forget these keys; values computed from before this call are not kept anywhere.

        This process and Redis forget before it returns, other replicas when the message reaches them, milliseconds later. While Redis is
        down the keys are remembered, and told when it is back.
        """
        fulls = [Key(tenant_id, kind, key) for key in keys]
        self.forget(tenant_id, kind, keys)
        marked = await self._shared.mark(fulls)
        self.forget(tenant_id, kind, keys)  # again: meanwhile the old value could still be read from Redis
        if not marked:
            self._owe(fulls)
            return
        try:
            await self._publish(tenant_id, kind, keys)
        except (RedisError, OSError) as error:
            self._owe(fulls)
            _log.warning("invalidation_untold", kind=kind, error=repr(error))

    def forget(self, tenant_id: TenantId, kind: str, keys: Sequence[str]) -> None:
        """Drops keys of this process, and what it is computing for them. For messages of other replicas.

        An empty tenant means that messages were missed: everything is dropped.
        """
        if not tenant_id:
            self._memory.clear()
            self._flights.clear()
            return
        fulls = [Key(tenant_id, kind, key) for key in keys]
        self._memory.forget(fulls)
        for full in fulls:
            self._flights.pop(full, None)

    async def close(self) -> None:
        """Ends what is still computed for callers that gave up. Call it before what `compute` and Redis need is closed."""
        flights = list(self._tasks)
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    async def _fly(self, full: Key, ttl_s: float, compute: Compute) -> Cached:
        me = asyncio.current_task()
        if self._owed:
            await self._settle()
        found, expected = await self._shared.get(full)
        if found is not None and full not in self._owed:
            left_s = found.expire_time_s - time.time()
            if left_s > 0:
                if self._flights.get(full) is me:
                    self._memory.put(full, found)
                return Cached(found.value, "l2", left_s)
        value = await compute()
        stored = Stored(value, time.time() + ttl_s)
        if self._flights.get(full) is me and ttl_s > 0:
            current = expected is None or await self._shared.put(full, stored, expected=expected)
            # Asked again: an invalidation may have come while Redis answered.
            if current and self._flights.get(full) is me:
                self._memory.put(full, stored)
        return Cached(value, "miss", max(0.0, ttl_s))

    def _landed(self, full: Key, flight: asyncio.Task[Cached]) -> None:
        self._tasks.discard(flight)
        if self._flights.get(full) is flight:
            del self._flights[full]
        if not flight.cancelled():
            flight.exception()  # everyone who waited may have given up before it failed

    def _owe(self, fulls: Sequence[Key]) -> None:
        self._owed.update(dict.fromkeys(fulls))
        while len(self._owed) > _OWED_KEYS:
            # Past this the oldest wait for their expiry.
            del self._owed[next(iter(self._owed))]

    async def _settle(self) -> None:
        """Tells Redis and the other replicas some of what they missed, if Redis is back."""
        owed: dict[tuple[TenantId, str], list[str]] = {}
        for full in itertools.islice(self._owed, _SETTLED_KEYS):
            owed.setdefault((full.tenant_id, full.kind), []).append(full.key)
        for (tenant_id, kind), keys in owed.items():
            for key in keys:
                self._owed.pop(Key(tenant_id, kind, key), None)
            await self.invalidate(tenant_id, kind, keys)
