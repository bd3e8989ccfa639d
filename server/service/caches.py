"""What the caches hold of a tenant, and their emptying by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from server.cache import Cache, Tally
from server.domain import TenantId, UserId
from server.errors import UnavailableError
from server.service.lists import RECOMMENDATIONS
from server.service.users import PROFILES
from server.store.audit import append_audit
from server.store.database import Database

KINDS = (PROFILES, RECOMMENDATIONS)
"""Kinds of values that may be invalidated by hand."""


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Figures of this process."""

    tallies: dict[str, Tally]
    """By kind, what happened to the tenant's reads."""
    entries: int
    bytes: int
    total_bytes: int
    """Of all tenants."""
    max_bytes: int
    evictions: int
    """Of all tenants."""


class Caches:
    """The use cases of CacheService."""

    def __init__(self, database: Database, cache: Cache) -> None:
        self._database = database
        self._cache = cache

    def stats(self, tenant_id: TenantId) -> CacheStats:
        """Returns what happened to the tenant's reads since the process started, and what it holds."""
        memory = self._cache.memory
        tallies = {kind: tally for kind, tally in self._cache.tallies(tenant_id).items() if kind in KINDS}
        return CacheStats(tallies, *memory.used_by(tenant_id), memory.size_bytes, memory.max_bytes, memory.evictions)

    async def invalidate(self, tenant_id: TenantId, kinds: Sequence[str], users: Sequence[UserId]) -> int:
        """Makes every replica forget values, and returns how many keys that were.

        Args:
            tenant_id: The tenant.
            kinds: Of `KINDS`; empty: all.
            users: Whose; empty: everybody's.

        Raises:
            UnavailableError: Redis is down, so only this process forgot; or the database is, and nothing happened.
        """
        chosen = [kind for kind in KINDS if not kinds or kind in kinds]
        details = {"kinds": chosen, "users": len(users) or "all"}  # no ids: entries of the log cannot be taken back
        async with self._database.tenant(tenant_id) as connection:
            await append_audit(connection, actor="api", action="invalidate_cache", resource="cache", details=details)
        count = 0
        for kind in chosen:
            if kind == PROFILES and users:
                await self._cache.invalidate(tenant_id, kind, users)
                count += len(users)
                continue
            for prefix in [f"{user}:" for user in users] or [""]:
                marked = await self._cache.invalidate_prefix(tenant_id, kind, prefix)
                if marked is None:
                    raise UnavailableError("redis", "does not answer, so only this process forgot; call again")
                count += marked
        return count
