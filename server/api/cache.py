"""CacheService on the wire."""

from __future__ import annotations

from aisle.v1 import cache_service_pb2 as pb
from server.api.wellknown import user_id_of
from server.cache import Tally
from server.interceptors.call import Call
from server.service.caches import Caches


def tally_to_proto(kind: str, tally: Tally) -> pb.GetCacheStatsResponse.Kind:
    """Returns the wire form of what happened to a kind's reads."""
    hits = tally.l1_hits + tally.l2_hits
    reads = hits + tally.misses
    return pb.GetCacheStatsResponse.Kind(
        kind=kind,
        l1_hit_count=tally.l1_hits,
        l2_hit_count=tally.l2_hits,
        miss_count=tally.misses,
        stale_count=tally.stale,
        joined_count=tally.joined,
        refresh_count=tally.refreshes,
        invalidation_count=tally.invalidations,
        hit_rate=hits / reads if reads else 0.0,
        volatility=tally.volatility,
    )


class CacheServicer:
    """Converts, calls, converts."""

    def __init__(self, caches: Caches) -> None:
        self._caches = caches

    async def GetCacheStats(self, call: Call, _request: pb.GetCacheStatsRequest) -> pb.GetCacheStatsResponse:  # noqa: N802
        """Returns this process's figures of the tenant."""
        stats = self._caches.stats(call.tenant_id)
        return pb.GetCacheStatsResponse(
            kinds=[tally_to_proto(kind, tally) for kind, tally in sorted(stats.tallies.items())],
            l1_entry_count=stats.entries,
            l1_bytes=stats.bytes,
            l1_total_bytes=stats.total_bytes,
            l1_max_bytes=stats.max_bytes,
            l1_eviction_count=stats.evictions,
        )

    async def InvalidateCache(self, call: Call, request: pb.InvalidateCacheRequest) -> pb.InvalidateCacheResponse:  # noqa: N802
        """Makes every replica forget values of the tenant."""
        users = [user_id_of(user) for user in request.users]
        return pb.InvalidateCacheResponse(invalidated_count=await self._caches.invalidate(call.tenant_id, request.kinds, users))
