"""Policies that a cache of a number of bytes can follow, each as a simulation that keeps keys and sizes and no values.

What the server uses is measured as it is (`server.cache.memory`); these stand beside it.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Protocol

Read = tuple[Hashable, int]
"""A key and the bytes that its entry takes."""


class Policy(Protocol):
    """Decides what stays."""

    def read(self, key: Hashable, size: int) -> bool:
        """Returns whether the key is there; if not, offers it with its size."""


class Lru:
    """The least recently read leaves first."""

    def __init__(self, max_bytes: int) -> None:
        self._free = max_bytes
        self._sizes: OrderedDict[Hashable, int] = OrderedDict()

    def read(self, key: Hashable, size: int) -> bool:
        """As `Policy`."""
        if key in self._sizes:
            self._sizes.move_to_end(key)
            return True
        self._sizes[key] = size
        self._free -= size
        while self._free < 0:
            self._free += self._sizes.popitem(last=False)[1]
        return False


class WTinyLfu:
    """A window by recency, before a main part in two segments that admits what was read more often than its victim.

    The window's share follows the hit rate by hill climbing.

    Source: as `server.cache.memory`, which it mirrors with exact counts and without expiry.
    """

    def __init__(self, max_bytes: int, entries: int) -> None:
        """`entries`: About how many entries fit, for the size of the sketch; counts are halved after ten times as many reads."""
        self._window: OrderedDict[Hashable, int] = OrderedDict()
        self._probation: OrderedDict[Hashable, int] = OrderedDict()
        self._protected: OrderedDict[Hashable, int] = OrderedDict()
        self._max = max_bytes
        self._window_most = max_bytes // 100
        self._window_bytes = self._main_bytes = self._protected_bytes = 0
        self._counts: dict[Hashable, int] = {}  # exact, so no worse than the sketch
        self._period = 10 * max(1, entries)
        self._reads = self._sampled = self._hits = 0
        self._rate, self._step = 0.0, 0.0625 * max_bytes

    def read(self, key: Hashable, size: int) -> bool:
        """As `Policy`."""
        self._count(key)
        hit = True
        if key in self._window:
            self._window.move_to_end(key)
        elif key in self._protected:
            self._protected.move_to_end(key)
        elif key in self._probation:
            self._promote(key)
        else:
            hit = False
            self._window[key] = size
            self._window_bytes += size
            self._shrink_window()
        self._climb(hit=hit)
        return hit

    def _climb(self, *, hit: bool) -> None:
        self._sampled += 1
        self._hits += hit
        if self._sampled < self._period:
            return
        rate = self._hits / self._sampled
        if rate < self._rate:
            self._step = -self._step
        self._step = 0.0625 * self._max * (1 if self._step > 0 else -1) if abs(rate - self._rate) > 0.05 else 0.98 * self._step
        self._rate, self._sampled, self._hits = rate, 0, 0
        self._window_most = int(min(0.8 * self._max, max(0.01 * self._max, self._window_most + self._step)))
        self._shrink_window()
        while self._main_bytes > self._max - self._window_most:
            self._evict_main()

    def _shrink_window(self) -> None:
        while self._window_bytes > self._window_most:
            leaving, bytes_ = self._window.popitem(last=False)
            self._window_bytes -= bytes_
            self._admit(leaving, bytes_)

    def _count(self, key: Hashable) -> None:
        self._counts[key] = min(15, self._counts.get(key, 0) + 1)
        self._reads += 1
        if self._reads >= self._period:
            self._counts = {one: count // 2 for one, count in self._counts.items() if count > 1}
            self._reads //= 2

    def _promote(self, key: Hashable) -> None:
        size = self._probation.pop(key)
        self._protected[key] = size
        self._protected_bytes += size
        while self._protected_bytes > 0.8 * (self._max - self._window_most):
            demoted, bytes_ = self._protected.popitem(last=False)
            self._protected_bytes -= bytes_
            self._probation[demoted] = bytes_

    def _evict_main(self) -> None:
        part = self._probation or self._protected
        _, bytes_ = part.popitem(last=False)
        self._main_bytes -= bytes_
        if part is self._protected:
            self._protected_bytes -= bytes_

    def _admit(self, key: Hashable, size: int) -> None:
        most = self._max - self._window_most
        while self._main_bytes + size > most and (self._probation or self._protected):
            victim = next(iter(self._probation or self._protected))
            if self._counts.get(key, 0) <= self._counts.get(victim, 0):
                return
            self._evict_main()
        if self._main_bytes + size <= most:
            self._probation[key] = size
            self._main_bytes += size


class S3Fifo:
    """A small queue of a tenth of the bytes filters what is read once; a main queue gives another round to what was read meanwhile.

    Source: J. Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023.
    """

    def __init__(self, max_bytes: int, *, small_share: float = 0.1) -> None:
        self._small: OrderedDict[Hashable, list[int]] = OrderedDict()  # key -> [size, reads]
        self._main: OrderedDict[Hashable, list[int]] = OrderedDict()
        self._ghost: OrderedDict[Hashable, int] = OrderedDict()
        self._max, self._small_most = max_bytes, int(max_bytes * small_share)
        self._small_bytes = self._main_bytes = self._ghost_bytes = 0

    def read(self, key: Hashable, size: int) -> bool:
        """As `Policy`."""
        entry = self._small.get(key) or self._main.get(key)
        if entry is not None:
            entry[1] = min(3, entry[1] + 1)
            return True
        if key in self._ghost:
            self._ghost_bytes -= self._ghost.pop(key)
            self._main[key] = [size, 0]
            self._main_bytes += size
        else:
            self._small[key] = [size, 0]
            self._small_bytes += size
        while self._small_bytes + self._main_bytes > self._max:
            if self._small_bytes > self._small_most or not self._main:
                self._evict_small()
            else:
                self._evict_main()
        return False

    def _evict_small(self) -> None:
        key, (size, reads) = self._small.popitem(last=False)
        self._small_bytes -= size
        if reads > 0:
            self._main[key] = [size, 0]
            self._main_bytes += size
            return
        self._ghost[key] = size
        self._ghost_bytes += size
        while self._ghost_bytes > self._max:
            self._ghost_bytes -= self._ghost.popitem(last=False)[1]

    def _evict_main(self) -> None:
        while True:
            key, entry = self._main.popitem(last=False)
            if entry[1] == 0:
                self._main_bytes -= entry[0]
                return
            entry[1] -= 1
            self._main[key] = entry


def belady_hits(reads: Sequence[Read], max_bytes: int) -> int:
    """Returns the hits of a policy that knows the future: what is read again last leaves first, or does not come in.

    The optimum where sizes are equal; where they differ, finding it is NP-hard, and this is its usual stand-in.

    Source: L. A. Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems Journal 5 (1966).
    """
    never = len(reads)
    following = [never] * len(reads)
    last: dict[Hashable, int] = {}
    for place in range(len(reads) - 1, -1, -1):
        key = reads[place][0]
        following[place] = last.get(key, never)
        last[key] = place
    kept: dict[Hashable, int] = {}
    sizes: dict[Hashable, int] = {}
    heap: list[tuple[int, int, Hashable]] = []
    free, hits = max_bytes, 0
    for place, (key, size) in enumerate(reads):
        if key in kept:
            hits += 1
        elif following[place] < never:
            free -= size
            sizes[key] = size
        else:
            continue
        kept[key] = following[place]
        heapq.heappush(heap, (-following[place], place, key))
        while free < 0:
            furthest, _, victim = heapq.heappop(heap)
            if kept.get(victim) == -furthest:
                del kept[victim]
                free += sizes[victim]
    return hits
