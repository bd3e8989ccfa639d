"""The cache level in Redis, which all replicas share.

An invalidation does not delete an entry but writes a marker of random bytes over it. A value computed before the invalidation then
cannot be stored after it, on any replica: storing compares with what was found when the computing began. Without it, a slow computation
would put back what was just invalidated. Source: leases, in "Scaling Memcache at Facebook" (NSDI 2013).
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Sequence

import redis.asyncio
from redis.exceptions import RedisError

from server.cache.memory import Key, Stored
from server.telemetry import logger

MARKER_S = 10
"""Seconds a marker stands: the longest computation that an invalidation can still catch."""

_EXPIRY = struct.Struct("<d")
_MARKER = b"\xff" * 8
"""NaN where an entry has its expiry, so no entry looks like a marker."""

_STORE = """
local found = redis.call('GET', KEYS[1])
if (found or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 5.0
_log = logger(__name__)


class SharedCache:
    """Entries in Redis. When Redis fails it is left alone for a while, so that its absence is not paid for with each read."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        """`client`: With a timeout short enough to wait for in a request, such as 50 ms."""
        self._redis = client
        self._store = client.register_script(_STORE)
        self._closed_until_s = 0.0
        self._pause_s = _FIRST_PAUSE_S

    async def get(self, key: Key) -> tuple[Stored | None, bytes | None]:
        """Returns the entry, or None, and what must still be found there to store another; None: Redis is not there, store nothing."""
        if not self._usable():
            return None, None
        try:
            found = await self._redis.get(_name(key))
        except (RedisError, OSError) as error:
            self._failed(error)
            return None, None
        self._pause_s = _FIRST_PAUSE_S
        if not isinstance(found, bytes):
            return None, b""
        if len(found) < _EXPIRY.size or found.startswith(_MARKER):
            return None, found
        return Stored(found[_EXPIRY.size :], _EXPIRY.unpack_from(found)[0]), found

    async def put(self, key: Key, stored: Stored, *, expected: bytes) -> bool:
        """Stores an entry if what `get` found is still there; False: it was invalidated meanwhile, or another was quicker."""
        if not self._usable():
            return True
        content = _EXPIRY.pack(stored.expire_time_s) + stored.value
        left_ms = max(1, int((stored.expire_time_s - time.time()) * 1000))
        try:
            return bool(await self._store(keys=[_name(key)], args=[expected, content, left_ms]))
        except (RedisError, OSError) as error:
            self._failed(error)
            return True

    async def mark(self, keys: Sequence[Key]) -> bool:
        """Invalidates entries and what is being computed for them; False: Redis is not there, and they still stand."""
        if not self._usable():
            return False
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.set(_name(key), _MARKER + os.urandom(8), ex=MARKER_S)
                await pipeline.execute()
        except (RedisError, OSError) as error:
            self._failed(error)
            return False
        return True

    def _usable(self) -> bool:
        return time.monotonic() >= self._closed_until_s

    def _failed(self, error: Exception) -> None:
        _log.warning("shared_cache_failed", error=repr(error), pause_s=self._pause_s)
        self._closed_until_s = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)


def _name(key: Key) -> str:
    return f"aisle:{{{key.tenant_id}}}:cache:{key.kind}:{key.key}"
