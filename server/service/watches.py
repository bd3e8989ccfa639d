"""Watches: who wants to hear that more is known of a user, and what happened since they last looked.

A watch holds one pending change, however many come: what a slow reader costs is bounded by the number of watches.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from server.domain import TenantId, UserId
from server.errors import OverloadedError, UnavailableError
from server.service.users import PROFILES
from server.telemetry import WATCHES

_COMPUTING = 4
"""States computed at once for watches: a message that concerns all of them must leave room for calls."""


class Cause(enum.Enum):
    """Why a state is looked at anew."""

    INITIAL = "initial"
    USER_CHANGED = "user_changed"
    RESYNC = "resync"
    """Messages were missed: anything may have changed."""


@dataclass(frozen=True, slots=True)
class Change:
    """What happened since the last look."""

    cause: Cause
    count: int = 0
    """Changes; 0 for the first look."""
    first_time: datetime | None = None
    """When this process heard of the first of them."""


class Watch:
    """One reader of one user's changes."""

    def __init__(self) -> None:
        self._pending: Change | None = Change(Cause.INITIAL)
        self._woken = asyncio.Event()
        self._woken.set()
        self._closed = False

    async def changes(self) -> AsyncIterator[Change]:
        """Yields the first look at once, then what happened since the last one, joined into one, as soon as anything did.

        Raises:
            UnavailableError: The server is stopping.
        """
        while True:
            await self._woken.wait()
            if self._closed:
                raise UnavailableError("server", "is stopping; watch again on another")
            self._woken.clear()
            change, self._pending = self._pending, None
            if change is not None:
                yield change

    def tell(self, cause: Cause) -> None:
        """Notes a change. Never blocks."""
        if self._pending is None:
            self._pending = Change(cause, 1, datetime.now(UTC))
        elif self._pending.cause is not Cause.INITIAL:
            self._pending = replace(self._pending, cause=cause, count=self._pending.count + 1)
        self._woken.set()

    def close(self) -> None:
        """Ends the watch."""
        self._closed = True
        self._woken.set()


class Watches:
    """All watches of this process, by user."""

    def __init__(self, limit: int) -> None:
        """`limit`: Watches open at once."""
        self._limit = limit
        self._open = 0
        self._by_user: dict[tuple[TenantId, UserId], set[Watch]] = {}
        self._turns = asyncio.Semaphore(_COMPUTING)
        self._closed = False

    @contextmanager
    def watch(self, tenant_id: TenantId, user_id: UserId) -> Iterator[Watch]:
        """Opens a watch until the block ends.

        Raises:
            OverloadedError: Too many are open.
            UnavailableError: The server is stopping.
        """
        if self._closed:
            raise UnavailableError("server", "is stopping; watch again on another")
        if self._open >= self._limit:
            raise OverloadedError(
                f"{self._limit} watches are open (AISLE_MAX_WATCHES); close some, or ask another replica", retry_after_s=5.0
            )
        watch = Watch()
        same_user = self._by_user.setdefault((tenant_id, user_id), set())
        same_user.add(watch)
        self._open += 1
        WATCHES.inc()
        try:
            yield watch
        finally:
            WATCHES.dec()
            self._open -= 1
            same_user.discard(watch)
            if not same_user and self._by_user.get((tenant_id, user_id)) is same_user:
                del self._by_user[tenant_id, user_id]

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for a turn to compute a state."""
        async with self._turns:
            yield

    def on_invalidation(self, tenant_id: TenantId, kind: str, keys: Sequence[str]) -> None:
        """Hears of users of whom more is known. An empty tenant means that messages were missed: it may be any."""
        if not tenant_id:
            for watches in self._by_user.values():
                for watch in watches:
                    watch.tell(Cause.RESYNC)
        elif kind == PROFILES:
            for user_id in keys:
                for watch in self._by_user.get((tenant_id, UserId(user_id)), ()):
                    watch.tell(Cause.USER_CHANGED)

    def close(self) -> None:
        """Ends all watches, and takes no more."""
        self._closed = True
        for watches in self._by_user.values():
            for watch in watches:
                watch.close()
