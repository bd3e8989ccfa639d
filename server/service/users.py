"""What is known of a user at the moment of a request: cached profile, read-your-writes, and the last known profile for bad times."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cachetools import LRUCache

from server.cache import USER_VECTOR_TTL_S, Cache, Cached
from server.domain import Event, Profile, TenantId, UserId, parse_consistency_token
from server.domain.history import overlay
from server.errors import DeadlineExceededError, UnavailableError
from server.service.deadlines import left_s
from server.service.profile_codec import decode_profile, encode_profile
from server.store import profiles as store
from server.store.database import Database
from server.stream import EventLog
from server.telemetry import logger

PROFILES = "profile"
"""Kind of the cache's entries. The user vector is computed from the profile in less time than reading it from Redis would take."""

READ_YOUR_WRITES_S = 0.1
"""How long a request waits for the events that its token names; past it the reply says that it did not see them."""

_DELETED = "deleted-profile"
"""Kind of the message that a user was deleted. Nothing is cached under it: a change alone must leave the last known profiles in place."""

_READ_S = 5.0
"""Seconds a read of the database may take when others may be waiting for it too: the time of the caller that came first is not theirs."""

_PATIENCE_S = 0.5
"""Seconds that a request waits for a profile at most, however much time it has: an older one or what is popular serves, too."""

_PATIENCE_WHILE_LATE_S = 0.05
"""The same after one that was waited for in vain, until the database has answered a read."""

_STALE_S = 600.0
"""Seconds past its end that a profile is used while it is read anew: whoever changes one says so, so it is seldom out of date."""

_REMEMBERED = 250_000
"""Interactions of the profiles that are kept decoded, some 400 bytes each; a profile without any counts as ten."""

_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class KnownUser:
    """A profile, and whether the events of the request's token are in it."""

    profile: Profile
    consistent: bool = True


class Users:
    """Reads profiles: L1, L2, then the database; lays a token's events over them."""

    def __init__(self, database: Database, cache: Cache, events: EventLog) -> None:
        self._database = database
        self._cache = cache
        self._events = events
        self._decoded: LRUCache[tuple[TenantId, UserId], tuple[bytes, Profile]] = LRUCache(_REMEMBERED, getsizeof=_weight)
        self._deletions = 0
        self._late = False

    @property
    def patience_s(self) -> float:
        """Seconds that a request which can do without a profile should wait for it."""
        return _PATIENCE_WHILE_LATE_S if self._late else _PATIENCE_S

    async def known(self, tenant_id: TenantId, user_id: UserId, *, token: str = "", deadline: float) -> KnownUser:
        """Returns the user's profile; an empty one for a user nobody has heard of.

        Raises:
            InvalidFieldError: The token is none of ours.
            UnavailableError: The profile is not cached and the database is down.
            DeadlineExceededError: Reading it took longer than the caller has.
        """
        if not token:
            return KnownUser(await self._cached(tenant_id, user_id, deadline=deadline))
        entries = parse_consistency_token(token, tenant_id)
        try:
            async with asyncio.timeout(min(READ_YOUR_WRITES_S, left_s(deadline))):
                return KnownUser(await self._with_events(tenant_id, user_id, entries, deadline=deadline))
        except (TimeoutError, UnavailableError) as error:
            _log.warning("a token's events were not seen", tenant=tenant_id, reason=str(error) or "100 ms passed")
            return KnownUser(await self._cached(tenant_id, user_id, deadline=deadline), consistent=False)

    def last_known(self, tenant_id: TenantId, user_id: UserId) -> Profile | None:
        """Returns the profile that this process read last, however old, or None."""
        remembered = self._decoded.get((tenant_id, user_id))
        return remembered[1] if remembered else None

    async def forget(self, tenant_id: TenantId, user_id: UserId) -> None:
        """Drops what every replica remembers of a deleted user: this one before it returns, others when the message reaches them."""
        self.on_invalidation(tenant_id, _DELETED, [user_id])
        for kind in (PROFILES, _DELETED):
            await self._cache.invalidate(tenant_id, kind, [user_id])

    def on_invalidation(self, tenant_id: TenantId, kind: str, keys: Sequence[str]) -> None:
        """Hears of deleted users. An empty tenant means that messages were missed: anyone may have been deleted."""
        if tenant_id and kind != _DELETED:
            return
        self._deletions += 1
        if not tenant_id:
            self._decoded.clear()
        for key in keys:
            self._decoded.pop((tenant_id, UserId(key)), None)

    async def _with_events(self, tenant_id: TenantId, user_id: UserId, entries: list[str], *, deadline: float) -> Profile:
        """Returns the profile with the events of these stream entries.

        The order of reads matters, see `EventLog.read_entry`: an entry that is gone was committed before, so the database, not a cache, is
        read after it.
        """
        found: list[Event] = []
        applied = False
        for entry in entries:
            events = await self._events.read_entry(tenant_id, entry)
            applied = applied or events is None
            found += events or ()
        profile = await (self._read if applied else self._cached)(tenant_id, user_id, deadline=deadline)
        return overlay(profile, found)

    async def _cached(self, tenant_id: TenantId, user_id: UserId, *, deadline: float) -> Profile:
        async def compute() -> bytes:
            # Others wait for the same reading: the first caller's haste is not theirs.
            return encode_profile(await self._read(tenant_id, user_id, deadline=time.monotonic() + _READ_S))

        deletions = self._deletions
        try:
            found = self._cache.begin(PROFILES, tenant_id, user_id, USER_VECTOR_TTL_S, compute, stale_s=_STALE_S)
            if not isinstance(found, Cached):
                async with asyncio.timeout(left_s(deadline)):
                    found = await found
            content = found.value
        except TimeoutError as error:
            self._late = True
            raise DeadlineExceededError("the profile was not read within the call's deadline; allow more time", user=user_id) from error
        remembered = self._decoded.get((tenant_id, user_id))
        if remembered is not None and remembered[0] == content:
            return remembered[1]
        profile = decode_profile(content)
        if deletions == self._deletions:  # else it may be that of a user deleted meanwhile
            self._decoded[tenant_id, user_id] = (content, profile)
        return profile

    async def _read(self, tenant_id: TenantId, user_id: UserId, *, deadline: float) -> Profile:
        timeout_s = left_s(deadline)
        try:
            async with asyncio.timeout(timeout_s), self._database.tenant(tenant_id, timeout_s=timeout_s) as connection:
                profile = await store.get_profile(connection, tenant_id, user_id)
        except TimeoutError as error:
            raise UnavailableError("database", "did not answer in time; retry") from error
        self._late = False
        return profile or Profile(user_id=user_id)


def _weight(remembered: tuple[bytes, Profile]) -> int:
    return 10 + len(remembered[1].history)
