"""Two levels, and one computation a key however many ask, on however many replicas.

Early refresh is "XFetch": A. Vattani, F. Chierichetti, K. Lowenstein, "Optimal Probabilistic Cache Stampede Prevention", PVLDB 8 (2015).
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from redis.exceptions import RedisError

from server.cache.memory import Key, MemoryCache, Stored
from server.cache.shared import LOCK_S, Found, SharedCache
from server.domain import TenantId
from server.telemetry import CACHE_READS, child, logger

USER_VECTOR_TTL_S = 3600.0
RECOMMENDATIONS_TTL_S = 1800.0
CONTENT_TTL_S = 4 * 3600.0

PREFIX = "cache-prefix"
"""Kind of the message that all keys of a kind that begin so are to be forgotten; its keys are `KIND:PREFIX`."""

Level = Literal["l1", "l2", "miss"]
Compute = Callable[[], Awaitable[bytes]]
Publish = Callable[[TenantId, str, Sequence[str]], Awaitable[None]]
"""Tells all replicas, this one too, to `forget`."""

_OWED_KEYS = 100_000
_SETTLED_KEYS = 1000
_POLL_S = 0.01
_SHORTEST_TTL = 0.125
"""Share of its time to live that a value gets whose kind always changed when it was looked at anew."""
_WEIGHT = 0.05
"""Of the newest observation in the running means of volatility and of the time of computing."""
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Cached:
    """A value and where it came from."""

    value: bytes
    level: Level
    """`miss`: it was computed for this call, or for one that came a moment before."""
    expires_in_s: float
    """Seconds it may still be kept. 0: it is past its end, and another is being made."""


@dataclass(slots=True)
class Tally:
    """What happened to a tenant's reads of a kind, in this process since it started."""

    l1_hits: int = 0
    l2_hits: int = 0
    misses: int = 0
    stale: int = 0
    """Of the hits: past the value's end."""
    joined: int = 0
    """Reads that waited for a computation under way; also counted where it found its value."""
    refreshes: int = 0
    """Values made anew before anyone had to wait for them."""
    invalidations: int = 0
    """Keys that this process invalidated."""
    volatility: float = 0.0
    """How often a value had changed when it was made anew, in [0, 1], recent ones counting more."""


@dataclass(slots=True)
class _Flight:
    """A computation under way."""

    answer: asyncio.Future[Cached]
    """Has the value before it is stored."""
    task: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True)
class _Making:
    """What is to be made."""

    full: Key
    ttl_s: float
    stale_s: float
    compute: Compute
    known: Stored | None
    """What there is now; None: somebody waits."""


class Cache:
    """Computed bytes by tenant, kind and key: L1 in process, L2 in Redis, single-flight.

    Errors of `compute` reach everyone who waits for it and are not kept. Redis being down costs its timeout once in a while and is no
    error. Where computing a kind takes long, one replica does it and the others wait, until it has, fails, or its lock ends.
    """

    def __init__(self, memory: MemoryCache, shared: SharedCache, publish: Publish, *, lock_above_s: float = 0.05) -> None:
        """`lock_above_s`: Seconds that computing a kind takes on average, above which replicas wait for each other. A lock is a write."""
        self._memory = memory
        self._shared = shared
        self._publish = publish
        self._lock_above_s = lock_above_s
        self._flights: dict[Key, _Flight] = {}
        self._owed: dict[Key, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._tallies: dict[tuple[TenantId, str], Tally] = {}
        self._compute_s: dict[str, float] = {}

    async def get_or_compute(
        self, kind: str, tenant_id: TenantId, key: str, ttl_s: float, compute: Compute, *, stale_s: float = 0.0
    ) -> Cached:
        """Returns the kept value, or the one that `compute` makes. Arguments as for `begin`."""
        found = self.begin(kind, tenant_id, key, ttl_s, compute, stale_s=stale_s)
        return found if isinstance(found, Cached) else await found

    def begin(
        self, kind: str, tenant_id: TenantId, key: str, ttl_s: float, compute: Compute, *, stale_s: float = 0.0
    ) -> Cached | Awaitable[Cached]:
        """Returns the value that this process has kept, or what to wait for: that of Redis, or the one that `compute` makes.

        Callers that ask for a key while it is computed wait for the same computation. It goes on when they give up. After `invalidate`
        the next caller starts a new one. Shortly before its end a value is made anew in the background, the sooner the longer making it
        takes, by chance, so that replicas do not all do it; from its end on for `stale_s` it is shown while another is made.

        Args:
            kind: What sort of value, a word of the code; names the metric too.
            tenant_id: The tenant.
            key: Anything within the tenant and kind.
            ttl_s: Seconds a computed value may be kept; less where values of the kind were seen to change.
            compute: Makes the value. May be called after this returned.
            stale_s: Seconds past its end that a value is better than waiting.
        """
        full = Key(tenant_id, kind, key)
        tally = self.tally(tenant_id, kind)
        found = self._memory.get(full)
        if found is not None:
            child(CACHE_READS, kind, "l1").inc()
            tally.l1_hits += 1
            left_s = found.expire_time_s - time.time()
            if left_s <= 0:
                tally.stale += 1
            # 1 - random() is in (0, 1], so the logarithm is finite.
            if left_s <= -found.compute_s * math.log(1.0 - random.random()) and full not in self._flights:  # noqa: S311  # no secret
                self._start(_Making(full, ttl_s, stale_s, compute, found))
            return Cached(found.value, "l1", max(0.0, left_s))
        flight = self._flights.get(full)
        if flight is None:
            flight = self._start(_Making(full, ttl_s, stale_s, compute, None))
        else:
            tally.joined += 1
        return self._joined(flight, tally, kind)

    @staticmethod
    async def _joined(flight: _Flight, tally: Tally, kind: str) -> Cached:
        # A caller that gives up must not take the value from the others.
        cached = await asyncio.shield(flight.answer)
        child(CACHE_READS, kind, cached.level).inc()
        if cached.level == "miss":
            tally.misses += 1
        else:
            tally.l2_hits += 1
            tally.stale += cached.expires_in_s <= 0
        return cached

    def tally(self, tenant_id: TenantId, kind: str) -> Tally:
        """Returns what happened to a tenant's reads of a kind."""
        return self._tallies.setdefault((tenant_id, kind), Tally())

    def tallies(self, tenant_id: TenantId) -> dict[str, Tally]:
        """Returns what happened to a tenant's reads, by kind."""
        return {kind: tally for (owner, kind), tally in self._tallies.items() if owner == tenant_id}

    @property
    def memory(self) -> MemoryCache:
        """The level in process."""
        return self._memory

    async def invalidate(self, tenant_id: TenantId, kind: str, keys: Sequence[str]) -> None:
        """Makes every replica forget these keys; values computed from before this call are not kept anywhere.

        This process and Redis forget before it returns, other replicas when the message reaches them, milliseconds later. While Redis is
        down the keys are remembered, and told when it is back.
        """
        fulls = [Key(tenant_id, kind, key) for key in keys]
        self.tally(tenant_id, kind).invalidations += len(fulls)
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

    async def invalidate_prefix(self, tenant_id: TenantId, kind: str, prefix: str) -> int | None:
        """Makes every replica forget the keys of a kind that begin so. For operators: it walks all keys of Redis.

        Returns:
            How many entries Redis had; None: Redis is down, and only this process forgot.
        """
        told = [f"{kind}:{prefix}"]
        self.forget(tenant_id, PREFIX, told)
        marked = await self._shared.mark_prefix(tenant_id, kind, prefix)
        self.forget(tenant_id, PREFIX, told)
        if marked is None:
            return None
        self.tally(tenant_id, kind).invalidations += marked
        try:
            await self._publish(tenant_id, PREFIX, told)
        except (RedisError, OSError) as error:
            _log.warning("invalidation_untold", kind=kind, error=repr(error))
            return None
        return marked

    def forget(self, tenant_id: TenantId, kind: str, keys: Sequence[str]) -> None:
        """Drops keys of this process, and what it is computing for them. For messages of other replicas.

        An empty tenant means that messages were missed: everything is dropped.
        """
        if not tenant_id:
            self._memory.clear()
            self._flights.clear()
            return
        if kind == PREFIX:
            for key in keys:
                self._forget_prefix(tenant_id, *key.split(":", 1))
            return
        for key in keys:
            # Equal to a `Key` and hashed alike, at a fifth of the cost: of the many keys that are told of, few are here.
            full: Any = (tenant_id, kind, key)
            self._memory.forget((full,))
            self._flights.pop(full, None)

    def _forget_prefix(self, tenant_id: TenantId, kind: str, prefix: str) -> None:
        self._memory.forget_prefix(tenant_id, kind, prefix)
        for full in [one for one in self._flights if one[:2] == (tenant_id, kind) and one.key.startswith(prefix)]:
            del self._flights[full]

    async def settled(self) -> None:
        """Waits until everything computed so far is stored."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """Ends what is still computed for callers that gave up. Call it before what `compute` and Redis need is closed."""
        flights = list(self._tasks)
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def _start(self, making: _Making) -> _Flight:
        flight = _Flight(asyncio.get_running_loop().create_future())
        flight.task = asyncio.create_task(self._fly(making, flight))
        self._flights[making.full] = flight
        self._tasks.add(flight.task)  # an invalidation takes it out of `_flights`, and the loop alone does not keep a task alive
        flight.task.add_done_callback(lambda done: self._landed(making.full, flight, done))
        return flight

    async def _fly(self, making: _Making, flight: _Flight) -> None:
        if self._owed:
            await self._settle()
        found = await self._found(making)
        if self._answered(making, flight, found):
            return
        known = found.stored or making.known
        try:
            await self._compute(making, flight, found, known)
        except BaseException:
            if found.locked:
                await self._shared.release(making.full)
            raise

    def _answered(self, making: _Making, flight: _Flight, found: Found) -> bool:
        """Answers with what Redis has, if that can be shown; returns whether no other value has to be made here."""
        kept = found.stored if making.full not in self._owed else None
        if kept is not None:
            left_s = kept.expire_time_s - time.time()
            if left_s > -kept.stale_s:
                if self._flights.get(making.full) is flight:
                    self._memory.put(making.full, kept)
                flight.answer.set_result(Cached(kept.value, "l2", max(0.0, left_s)))
            if left_s > 0 and (making.known is None or kept.expire_time_s > making.known.expire_time_s):
                return True
        if not flight.answer.done() and making.known is None:
            return False  # somebody waits
        if self._locks(making.full.kind) and found.expected is not None and not found.locked:
            if making.known is not None and not flight.answer.done():  # for one who joined after the value left this process
                flight.answer.set_result(Cached(making.known.value, "l1", max(0.0, making.known.expire_time_s - time.time())))
            return True  # another replica makes it anew
        self.tally(making.full.tenant_id, making.full.kind).refreshes += 1
        return False

    async def _found(self, making: _Making) -> Found:
        """Returns what Redis has, after another replica's computation if one is under way and somebody waits here."""
        lock = self._locks(making.full.kind)
        newer_than_s = making.known.expire_time_s if making.known is not None else 0.0
        until = time.monotonic() + LOCK_S
        while True:
            found = await self._shared.get(making.full, newer_than_s=newer_than_s, lock=lock)
            showable = found.stored is not None and found.stored.expire_time_s + found.stored.stale_s > time.time()
            waiting = lock and found.expected is not None and not found.locked and not showable and making.known is None
            if not waiting or time.monotonic() >= until:
                return found
            await asyncio.sleep(_POLL_S)

    async def _compute(self, making: _Making, flight: _Flight, found: Found, known: Stored | None) -> None:
        full, tally = making.full, self.tally(making.full.tenant_id, making.full.kind)
        started = time.monotonic()
        value = await making.compute()
        compute_s = time.monotonic() - started
        mean_s = self._compute_s.get(full.kind, compute_s)
        self._compute_s[full.kind] = mean_s + _WEIGHT * (compute_s - mean_s)
        if known is not None:
            tally.volatility += _WEIGHT * (float(value != known.value) - tally.volatility)
        ttl_s = making.ttl_s * (1.0 - (1.0 - _SHORTEST_TTL) * tally.volatility)
        if not flight.answer.done():
            flight.answer.set_result(Cached(value, "miss", max(0.0, ttl_s)))
        stored = Stored(value, time.time() + ttl_s, compute_s, making.stale_s)
        if self._flights.get(full) is not flight or ttl_s <= 0:
            if found.locked:
                await self._shared.release(full)
            return
        self._memory.put(full, stored)
        if found.expected is not None and not await self._shared.put(full, stored, expected=found.expected, locked=found.locked):
            # Invalidated by another replica, whose message may not have come yet; or another was quicker.
            self._memory.forget([full])

    def _locks(self, kind: str) -> bool:
        return self._compute_s.get(kind, 0.0) >= self._lock_above_s

    def _landed(self, full: Key, flight: _Flight, done: asyncio.Task[None]) -> None:
        self._tasks.discard(done)
        if self._flights.get(full) is flight:
            del self._flights[full]
        error = None if done.cancelled() else done.exception()
        if flight.answer.done():
            if error is not None:
                _log.warning("value_not_renewed", kind=full.kind, tenant=full.tenant_id, error=repr(error))
        elif error is not None:
            flight.answer.set_exception(error)
            flight.answer.exception()  # everyone who waited may have given up before it failed
        else:
            flight.answer.cancel()

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
