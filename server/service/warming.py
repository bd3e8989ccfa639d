"""Lists made before they are asked for: of users who are active, for the page that is likeliest to come next.

What comes next is learned from what came next: for each page as it is asked (context, filter, number of items) the pages that users asked
after it are counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from cachetools import LRUCache, TTLCache

from server.domain import TenantId, UserId
from server.errors import AisleError
from server.service.query import RecommendQuery
from server.service.users import PROFILES
from server.telemetry import WARMED, logger

_ACTIVE_USERS = 5000
_ACTIVE_S = 120.0
"""Seconds after a list that a user counts as active."""
_PAGES = 2000
_SUCCESSORS = 8
_SEEN_BEFORE = 3
"""Times that a page must have followed another before it is made ahead."""
_LIKELY = 0.5
_WAITING = 200
_SHARE = 0.1
"""Share of the time that is spent on lists nobody asked for yet."""
_WARM_S = 2.0
_log = logger(__name__)

Warm = Callable[[TenantId, RecommendQuery, float], Awaitable[None]]
"""Fills the caches for a query, by a deadline on the clock of `time.monotonic()`."""


class Warming:
    """Makes lists one after another, and rests nine times as long as each took. What does not fit into the queue is not made."""

    def __init__(self, warm: Warm) -> None:
        self._warm = warm
        self._active: TTLCache[tuple[TenantId, UserId], RecommendQuery] = TTLCache(_ACTIVE_USERS, _ACTIVE_S)
        self._pages: LRUCache[tuple[TenantId, str], RecommendQuery] = LRUCache(_PAGES)
        self._followed: LRUCache[tuple[TenantId, str], Counter[str]] = LRUCache(_PAGES)
        self._due: dict[tuple[TenantId, UserId], RecommendQuery] = {}
        self._wake = asyncio.Event()

    def served(self, tenant_id: TenantId, query: RecommendQuery) -> None:
        """Hears of a list that was asked for. Never blocks."""
        if query.token or query.extra_history:
            return  # such lists are not kept
        page = query.page
        before = self._active.get((tenant_id, query.user_id))
        if before is not None:
            counts = self._followed.setdefault((tenant_id, before.page), Counter())
            counts[page] += 1
            if len(counts) > _SUCCESSORS:
                del counts[min(counts, key=counts.__getitem__)]
        self._pages[tenant_id, page] = self._active[tenant_id, query.user_id] = query
        expected = self._next_of(tenant_id, query)
        if expected is not query:
            self._ask(tenant_id, expected)

    def on_invalidation(self, tenant_id: TenantId, kind: str, keys: Sequence[str]) -> None:
        """Hears of users whose lists became others, and asks for the next page of those who are active here."""
        if kind == PROFILES:
            for key in keys:
                query = self._active.get((tenant_id, UserId(key)))
                if query is not None:
                    self._ask(tenant_id, self._next_of(tenant_id, query))

    def _next_of(self, tenant_id: TenantId, query: RecommendQuery) -> RecommendQuery:
        """Returns what the user is likeliest to ask next: what mostly followed this page, or the same again."""
        counts = self._followed.get((tenant_id, query.page))
        if counts:
            page, times = max(counts.items(), key=lambda one: one[1])
            if page != query.page and times >= _SEEN_BEFORE and times >= _LIKELY * counts.total():
                known = self._pages.get((tenant_id, page))
                if known is not None:
                    return replace(known, user_id=query.user_id)
        return query

    def _ask(self, tenant_id: TenantId, query: RecommendQuery) -> None:
        if len(self._due) < _WAITING or (tenant_id, query.user_id) in self._due:
            self._due[tenant_id, query.user_id] = query
            self._wake.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Warming]:
        """Works while the context is open. What waits at the end is dropped."""
        worker = asyncio.create_task(self._warm_forever(), name="warming")
        try:
            yield self
        finally:
            worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await worker

    async def _warm_forever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._due:
                key = next(iter(self._due))
                query = self._due.pop(key)
                started = time.monotonic()
                try:
                    await self._warm(key[0], query, started + _WARM_S)
                    WARMED.inc()
                except AisleError as error:
                    _log.debug("list not made ahead", tenant=key[0], reason=error.message)
                except Exception:  # noqa: BLE001  # one bad query must not end the work
                    _log.exception("list not made ahead", tenant=key[0])
                await asyncio.sleep((time.monotonic() - started) * (1 - _SHARE) / _SHARE)
