"""Ranked lists in the caches."""

from __future__ import annotations

from server.cache import RECOMMENDATIONS_TTL_S, Cache, MemoryCache
from server.cache.shared import SharedCache
from server.domain import ItemId, Rung, ScoredItem, TenantId
from server.domain.decisions import PackedIds, pack_ids
from server.service.lists import RECOMMENDATIONS, Found, Ladder, RankedList, RankedLists
from server.stream import Invalidations, connect
from tests.redis_server import OwnRedis

ACME = TenantId("acme")
FULL = RankedList((ScoredItem(ItemId("a"), 0.5),), "local", PackedIds(pack_ids([ItemId("a"), ItemId("b")])))


async def test_a_list_says_how_long_it_is_kept(own_redis: OwnRedis) -> None:
    """What remains of a list's time is that of its entry, whatever level it is found in; a list that is not kept has none."""

    async def compute() -> RankedList:
        return FULL

    async def degraded() -> RankedList:
        return RankedList(FULL.items, "", FULL.candidates, Ladder(Rung.NO_RANKER, "no ranker"))

    async with connect(own_redis.url, timeout_s=1.0) as client:
        cache = Cache(MemoryCache(1_000_000), SharedCache(client), Invalidations(client).publish)
        lists = RankedLists(cache)
        made = await lists.get_or_compute(ACME, "young", Rung.FULL, compute)
        assert made == Found(FULL, "", RECOMMENDATIONS_TTL_S)

        async def content() -> bytes:
            return (await cache.get_or_compute(RECOMMENDATIONS, ACME, "young", 0.0, content)).value

        await cache.get_or_compute(RECOMMENDATIONS, ACME, "old", 60.0, content)
        found = await lists.get_or_compute(ACME, "old", Rung.FULL, compute)
        assert (found.ranked, found.level) == (FULL, "l1")
        assert 0 < found.expires_in_s <= 60
        assert await lists.get_or_compute(ACME, "", Rung.FULL, compute) == Found(FULL)
        assert await lists.get_or_compute(ACME, "lower", Rung.FULL, degraded) == Found(await degraded())
