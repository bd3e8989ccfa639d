"""The cache level in Redis, which all replicas share.

An invalidation does not delete an entry but writes a marker of random bytes over it. A value computed before the invalidation then
cannot be stored after it, on any replica: storing compares with what was found when the computing began. Without it, a slow computation
would put back what was just invalidated. Source: leases, in "Scaling Memcache at Facebook" (NSDI 2013).
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import redis.asyncio
from redis.exceptions import RedisError

from server.cache.memory import Key, Stored
from server.domain import TenantId
from server.telemetry import logger

MARKER_S = 10
"""Seconds a marker stands: the longest computation that an invalidation can still catch."""

LOCK_S = 2.0
"""Seconds after which the lock of a replica that computes is free again: it died, or others need not wait longer for it."""

_HEADER = struct.Struct("<dff")
"""When the value ends, seconds that making it took, seconds it may be stale."""
_MARKER = b"\xff" * 8
"""NaN where an entry has its end, so no entry looks like a marker, and a marker is never fresh."""

_READ_OR_LOCK = """
local found = redis.call('GET', KEYS[1])
if found and #found >= 16 and struct.unpack('<d', found) > tonumber(ARGV[3]) then return {found, 0} end
local won = redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2])
return {found or '', won and 1 or 0}
"""
_STORE = """
if ARGV[4] == '1' then redis.call('DEL', KEYS[2]) end
local found = redis.call('GET', KEYS[1])
if (found or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""
_MARK = "for place = 1, #KEYS do redis.call('SET', KEYS[place], ARGV[1], 'EX', ARGV[2]) end"
_MARKED_AT_ONCE = 1000
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 5.0
_log = logger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Found:
    """What Redis has for a key."""

    stored: Stored | None
    """The entry, also one past its end."""
    expected: bytes | None
    """What must still be there to store another; None: Redis is not there, store nothing."""
    locked: bool = False
    """Whether the caller now holds the key's lock, and others wait for what it computes."""


@dataclass(frozen=True, slots=True)
class _Asked:
    key: Key
    newer_than_s: float
    lock: bool
    answer: asyncio.Future[Found]


@dataclass(frozen=True, slots=True)
class _Put:
    key: Key
    arguments: tuple[bytes | int, ...]
    answer: asyncio.Future[bool]


_AWAY = Found(None, None)


class SharedCache:
    """Entries in Redis. When Redis fails it is left alone for a while, so that its absence is not paid for with each read.

    What meets in one turn of the event loop, reads and writes, shares one round trip.
    """

    def __init__(self, client: redis.asyncio.Redis) -> None:
        """`client`: With a timeout short enough to wait for in a request, such as 50 ms."""
        self._redis = client
        self._asked: list[_Asked] = []
        self._put: list[_Put] = []
        self._sending: set[asyncio.Task[None]] = set()
        self._closed_until_s = 0.0
        self._pause_s = _FIRST_PAUSE_S
        self.round_trips = 0
        """Pipelines sent so far, of any number of reads and writes."""

    async def get(self, key: Key, *, newer_than_s: float = 0.0, lock: bool = False) -> Found:
        """Returns what is there.

        Args:
            key: The key.
            newer_than_s: Entries that end before, seconds since 1970, are as good as none.
            lock: Take the key's lock if there is no good entry and nobody has it; `put` or `release` gives it back.
        """
        if not self._usable():
            return _AWAY
        asked = _Asked(key, newer_than_s, lock, asyncio.get_running_loop().create_future())
        self._asked.append(asked)
        self._send_soon()
        return await asked.answer

    async def put(self, key: Key, stored: Stored, *, expected: bytes, locked: bool = False) -> bool:
        """Stores an entry if what `get` found is still there; False: it was invalidated meanwhile, or another was quicker."""
        if not self._usable():
            return True
        content = _HEADER.pack(stored.expire_time_s, stored.compute_s, stored.stale_s) + stored.value
        left_ms = max(1, int((stored.expire_time_s + stored.stale_s - time.time()) * 1000))
        put = _Put(key, (expected, content, left_ms, int(locked)), asyncio.get_running_loop().create_future())
        self._put.append(put)
        self._send_soon()
        return await put.answer

    async def release(self, key: Key) -> None:
        """Gives back the lock of a computation that failed, so that another replica need not wait for its end."""
        try:
            await self._redis.delete(_lock_name(key))
        except (RedisError, OSError) as error:
            self._failed(error)

    async def mark(self, keys: Sequence[Key]) -> bool:
        """Invalidates entries of one tenant and what is being computed for them; False: Redis is not there, and they still stand."""
        if not self._usable():
            return False
        return await self._mark([_name(key) for key in keys])

    async def mark_prefix(self, tenant_id: TenantId, kind: str, prefix: str) -> int | None:
        """Invalidates the entries of a kind whose keys begin so, and returns how many; None: Redis is away. Walks all keys of Redis."""
        if not self._usable():
            return None
        escaped = "".join(f"\\{one}" if one in "*?[]\\^" else one for one in _name(Key(tenant_id, kind, prefix)))
        marked = 0
        try:
            found = [name.decode() async for name in self._redis.scan_iter(match=f"{escaped}*", count=1000) if not name.endswith(b":lock")]
        except (RedisError, OSError) as error:
            self._failed(error)
            return None
        for start in range(0, len(found), _MARKED_AT_ONCE):
            if not await self._mark(found[start : start + _MARKED_AT_ONCE]):
                return None
            marked += len(found[start : start + _MARKED_AT_ONCE])
        return marked

    async def _mark(self, names: list[str]) -> bool:
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for start in range(0, len(names), _MARKED_AT_ONCE):
                    some = names[start : start + _MARKED_AT_ONCE]
                    pipeline.eval(_MARK, len(some), *some, _MARKER + os.urandom(8), MARKER_S)
                await pipeline.execute()
        except (RedisError, OSError) as error:
            self._failed(error)
            return False
        return True

    def _send_soon(self) -> None:
        if len(self._asked) + len(self._put) == 1:
            task = asyncio.create_task(self._send())
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send(self) -> None:
        """Sends all that came in this turn of the loop."""
        asked, self._asked = self._asked, []
        puts, self._put = self._put, []
        plain: dict[TenantId, list[_Asked]] = {}  # a tenant's keys lie in one slot of a Redis Cluster, so one MGET can have them
        for one in asked:
            if not one.lock:
                plain.setdefault(one.key.tenant_id, []).append(one)
        locking = [one for one in asked if one.lock]
        found = [_AWAY] * len(asked)
        stored = [True] * len(puts)
        self.round_trips += 1
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for some in plain.values():
                    pipeline.mget([_name(one.key) for one in some])
                for one in locking:
                    oldest_s = repr(max(time.time(), one.newer_than_s))
                    pipeline.eval(_READ_OR_LOCK, 2, _name(one.key), _lock_name(one.key), b"1", int(LOCK_S * 1000), oldest_s)
                for put in puts:
                    pipeline.eval(_STORE, 2, _name(put.key), _lock_name(put.key), *put.arguments)
                answers: list[Any] = await pipeline.execute()
            found = [_found(content, locked=False) for contents in answers[: len(plain)] for content in contents]
            found += [_found(content, locked=bool(won)) for content, won in answers[len(plain) : len(plain) + len(locking)]]
            stored = [bool(answer) for answer in answers[len(plain) + len(locking) :]]
            self._pause_s = _FIRST_PAUSE_S
        except (RedisError, OSError) as error:
            self._failed(error)
        finally:  # also when this is cancelled: others wait
            ordered = [*(one for some in plain.values() for one in some), *locking]
            _answer([one.answer for one in ordered], found)
            _answer([put.answer for put in puts], stored)

    def _usable(self) -> bool:
        return time.monotonic() >= self._closed_until_s

    def _failed(self, error: Exception) -> None:
        _log.warning("shared_cache_failed", error=repr(error), pause_s=self._pause_s)
        self._closed_until_s = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)


def _answer(waiting: Sequence[asyncio.Future[_T]], answers: Sequence[_T]) -> None:
    for future, answer in zip(waiting, answers, strict=True):
        if not future.done():
            future.set_result(answer)


def _found(content: bytes | None, *, locked: bool) -> Found:
    if not content:
        return Found(None, b"", locked)
    if len(content) < _HEADER.size or content.startswith(_MARKER):
        return Found(None, content, locked)
    expire_time_s, compute_s, stale_s = _HEADER.unpack_from(content)
    return Found(Stored(content[_HEADER.size :], expire_time_s, compute_s, stale_s), content, locked)


def _name(key: Key) -> str:
    return f"aisle:{{{key.tenant_id}}}:cached:{key.kind}:{key.key}"  # not as it was before entries had a header of three numbers


def _lock_name(key: Key) -> str:
    return f"{_name(key)}:lock"
