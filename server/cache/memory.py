"""The cache level in process: bounded by bytes, each entry with its own expiry."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

from cachetools import TLRUCache

from server.domain import TenantId

_ENTRY_OVERHEAD_BYTES = 300
"""A key's tuple and strings, the entry and its place in three tables of cachetools, rounded up."""


class Key(NamedTuple):
    """What an entry is found by, at both levels."""

    tenant_id: TenantId
    kind: str
    key: str


class Stored(NamedTuple):
    """A value and when it ends."""

    value: bytes
    expire_time_s: float
    """Seconds since 1970."""


class MemoryCache:
    """Entries that expire, the least recently read ones leaving first when the bytes are used up. For one event loop."""

    def __init__(self, max_bytes: int, *, longest_s: float = 60.0) -> None:
        """Stores the limits.

        Args:
            max_bytes: Keys, values and bookkeeping together. An entry larger than this is not kept.
            longest_s: Seconds an entry is kept at most: how long a missed invalidation can show.
        """
        self._longest_s = longest_s
        self._entries: TLRUCache[Key, Stored] = TLRUCache(max_bytes, ttu=self._expiry, timer=time.time, getsizeof=_size_bytes)

    def get(self, key: Key) -> Stored | None:
        """Returns an entry that has not expired, or None."""
        return self._entries.get(key)

    def put(self, key: Key, stored: Stored) -> None:
        """Keeps an entry, in the place of one with the same key."""
        if _size_bytes(stored) <= self._entries.maxsize:
            self._entries[key] = stored
        else:
            self._entries.pop(key, None)

    def forget(self, keys: Iterable[Key]) -> None:
        """Drops entries; those that are not there are no error."""
        for key in keys:
            self._entries.pop(key, None)

    def clear(self) -> None:
        """Drops all entries."""
        self._entries.clear()

    @property
    def size_bytes(self) -> int:
        """Bytes in use."""
        return int(self._entries.currsize)

    def _expiry(self, _key: Key, stored: Stored, now_s: float) -> float:
        return min(stored.expire_time_s, now_s + self._longest_s)


def _size_bytes(stored: Stored) -> int:
    return len(stored.value) + _ENTRY_OVERHEAD_BYTES
