"""The cache level in process: bounded by bytes, each entry with its own expiry, keeping what is read often.

Source: W-TinyLFU, by G. Einziger, R. Friedman, B. Manes, "TinyLFU: A Highly Efficient Cache Admission Policy", ACM Transactions on Storage
13 (2017), with the window sized by hill climbing: G. Einziger, O. Eytan, R. Friedman, B. Manes, "Adaptive Software Cache Management",
Middleware 2018.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from server.cache.sketch import Sketch
from server.domain import TenantId

ENTRY_OVERHEAD_BYTES = 400
"""A key's tuple and strings, the entry, and its place in two tables, rounded up."""

_PROTECTED = 0.8
_WINDOW_LEAST, _WINDOW_MOST = 0.01, 0.8
_STEP = 0.0625
_RESTART = 0.05
_DECAY = 0.98
_SAMPLE = 10
"""Reads for each entry between two looks at the hit rate, and between two halvings of the counts."""
_LEAST_SAMPLE = 1000


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
    compute_s: float = 0.0
    """Seconds that making it took."""
    stale_s: float = 0.0
    """Seconds past its end that it may still be shown, while another is made."""


@dataclass(slots=True)
class _Entry:
    stored: Stored
    ends_s: float
    """On the clock of `time.monotonic()`: when the machine's clock is set, nothing stays the longer for it."""
    size_bytes: int
    segment: OrderedDict[Key, _Entry] | None = None


class MemoryCache:
    """Entries that expire. For one event loop.

    New entries pass a window by recency; what falls out of it comes into the main part only if it was read more often lately than what has
    to leave for it. So a scan of entries read once displaces little. A tenant may use what others leave, but not more than its share while
    others have entries: then its own oldest leave.
    """

    def __init__(self, max_bytes: int, *, longest_s: float = 60.0, tenant_share: float = 0.5) -> None:
        """Stores the limits.

        Args:
            max_bytes: Keys, values and bookkeeping together. An entry larger than this is not kept.
            longest_s: Seconds an entry is kept at most: how long a missed invalidation can show.
            tenant_share: Share of the bytes that one of several tenants has at most, in (0, 1].
        """
        self.max_bytes = max_bytes
        self._longest_s = longest_s
        self._tenant_bytes = int(max_bytes * tenant_share)
        self._window: OrderedDict[Key, _Entry] = OrderedDict()
        self._probation: OrderedDict[Key, _Entry] = OrderedDict()
        self._protected: OrderedDict[Key, _Entry] = OrderedDict()
        self._bytes = {id(self._window): 0, id(self._probation): 0, id(self._protected): 0}
        self._tenants: dict[TenantId, dict[Key, _Entry]] = {}
        self._used: dict[TenantId, int] = {}
        self._ending: dict[int, dict[Key, _Entry]] = {}
        self._next_sweep_s = 0
        self._counts = Sketch(max_bytes // 1024)
        self._window_most = int(_WINDOW_LEAST * max_bytes)
        self._step = _STEP * max_bytes
        self._rate = 0.0
        self._reads = self._hits = 0
        self.evictions = 0
        """Entries that left for want of room, or were not let in."""

    def get(self, key: Key) -> Stored | None:
        """Returns an entry that has not expired, or None."""
        self._counts.add(hash(key))
        entry = self._tenants.get(key.tenant_id, {}).get(key)
        if entry is not None and entry.ends_s <= time.monotonic():
            self._drop(key, entry)
            entry = None
        if entry is not None:
            self._touch(key, entry)
        self._climb(hit=entry is not None)
        return entry.stored if entry is not None else None

    def put(self, key: Key, stored: Stored) -> None:
        """Keeps an entry, in the place of one with the same key, unless what would have to leave for it is read more often."""
        now = time.monotonic()
        self._sweep(now)
        self.forget([key])
        size = len(stored.value) + len(key.key) + ENTRY_OVERHEAD_BYTES
        left_s = min(stored.expire_time_s + stored.stale_s - time.time(), self._longest_s)
        entry = _Entry(stored, now + left_s, size)
        if size > self.max_bytes or left_s <= 0:
            return
        self._tenants.setdefault(key.tenant_id, {})[key] = entry
        self._used[key.tenant_id] = self._used.get(key.tenant_id, 0) + size
        self._ending.setdefault(int(entry.ends_s), {})[key] = entry
        self._place(self._window, key, entry)
        self._settle()
        mine = self._tenants.get(key.tenant_id, {})
        while len(self._tenants) > 1 and mine and self._used[key.tenant_id] > self._tenant_bytes:
            oldest = next(iter(mine))
            self._evict(oldest, mine[oldest])

    def forget(self, keys: Iterable[Key]) -> None:
        """Drops entries; those that are not there are no error."""
        for key in keys:
            entry = self._tenants.get(key[0], {}).get(key)
            if entry is not None:
                self._drop(key, entry)

    def forget_prefix(self, tenant_id: TenantId, kind: str, prefix: str) -> None:
        """Drops a tenant's entries of a kind whose keys begin so. Looks at all entries of the tenant."""
        self.forget([key for key in self._tenants.get(tenant_id, {}) if key.kind == kind and key.key.startswith(prefix)])

    def clear(self) -> None:
        """Drops all entries. What was read how often stays known."""
        for segment in (self._window, self._probation, self._protected):
            segment.clear()
            self._bytes[id(segment)] = 0
        self._tenants.clear()
        self._used.clear()
        self._ending.clear()

    @property
    def size_bytes(self) -> int:
        """Bytes in use."""
        return sum(self._bytes.values())

    def used_by(self, tenant_id: TenantId) -> tuple[int, int]:
        """Returns a tenant's entries, those that expired since the last one was kept included, and their bytes."""
        return len(self._tenants.get(tenant_id, {})), self._used.get(tenant_id, 0)

    def _sweep(self, now: float) -> None:
        """Drops what has expired, once a second at most: memory follows what may be read, not all that was kept since the start."""
        if now < self._next_sweep_s:
            return
        self._next_sweep_s = int(now) + 1
        for second in [second for second in self._ending if second < self._next_sweep_s - 1]:
            for key, entry in list(self._ending[second].items()):
                self._drop(key, entry)

    def _touch(self, key: Key, entry: _Entry) -> None:
        if entry.segment is self._probation:
            self._leave(key, entry)
            self._place(self._protected, key, entry)
            self._demote()
        elif entry.segment is not None:
            entry.segment.move_to_end(key)

    def _demote(self) -> None:
        most = _PROTECTED * (self.max_bytes - self._window_most)
        while self._bytes[id(self._protected)] > most and len(self._protected) > 1:
            key, entry = next(iter(self._protected.items()))
            self._leave(key, entry)
            self._place(self._probation, key, entry)

    def _settle(self) -> None:
        """Lets out of the window what is beyond its share, into the main part or away."""
        while self._bytes[id(self._window)] > self._window_most:
            key, entry = next(iter(self._window.items()))
            if self._wins(key, entry):
                self._leave(key, entry)
                self._place(self._probation, key, entry)
            else:
                self._evict(key, entry)

    def _wins(self, key: Key, entry: _Entry) -> bool:
        """Makes room for an entry in the main part; false: what is there was read at least as often, or the entry does not fit."""
        most = self.max_bytes - self._window_most
        if entry.size_bytes > most:
            return False
        mine, now = self._counts.count(hash(key)), time.monotonic()
        while self._main_bytes + entry.size_bytes > most:
            victim, other = next(iter((self._probation or self._protected).items()))
            if other.ends_s > now and mine <= self._counts.count(hash(victim)):
                return False
            self._evict(victim, other)
        return True

    @property
    def _main_bytes(self) -> int:
        return self._bytes[id(self._probation)] + self._bytes[id(self._protected)]

    def _climb(self, *, hit: bool) -> None:
        """Moves the border between window and main part the way that raised the hit rate."""
        self._reads += 1
        self._hits += hit
        held = len(self._window) + len(self._probation) + len(self._protected)
        if self._reads < max(_LEAST_SAMPLE, _SAMPLE * held):
            return
        rate = self._hits / self._reads
        towards = 1 if (self._step > 0) == (rate >= self._rate) else -1
        length = _STEP * self.max_bytes if abs(rate - self._rate) > _RESTART else _DECAY * abs(self._step)
        self._step, self._rate = towards * length, rate
        self._reads = self._hits = 0
        self._counts.halve()
        least, most = _WINDOW_LEAST * self.max_bytes, _WINDOW_MOST * self.max_bytes
        self._window_most = int(min(most, max(least, self._window_most + self._step)))
        self._demote()
        while self._main_bytes > self.max_bytes - self._window_most:
            self._evict(*next(iter((self._probation or self._protected).items())))
        self._settle()

    def _place(self, segment: OrderedDict[Key, _Entry], key: Key, entry: _Entry) -> None:
        segment[key] = entry
        entry.segment = segment
        self._bytes[id(segment)] += entry.size_bytes

    def _leave(self, key: Key, entry: _Entry) -> None:
        assert entry.segment is not None
        del entry.segment[key]
        self._bytes[id(entry.segment)] -= entry.size_bytes

    def _evict(self, key: Key, entry: _Entry) -> None:
        self.evictions += 1
        self._drop(key, entry)

    def _drop(self, key: Key, entry: _Entry) -> None:
        self._leave(key, entry)
        second = int(entry.ends_s)
        ending = self._ending[second]
        del ending[key]
        if not ending:
            del self._ending[second]
        tenant_id = key[0]
        mine = self._tenants[tenant_id]
        del mine[key]
        self._used[tenant_id] -= entry.size_bytes
        if not mine:
            del self._tenants[tenant_id], self._used[tenant_id]
