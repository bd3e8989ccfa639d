"""CacheService through both doors: figures that follow reads, and emptying that is seen by the next read."""

from __future__ import annotations

import uuid

import grpc
import pytest

from aisle.v1 import cache_service_pb2 as pb
from aisle.v1 import recommendation_service_pb2 as recommendation
from server.demo.generate import Demo
from server.store import Database
from tests.fixtures_server import SHOP, Door, new_key


async def _recommend(door: Door, user: str) -> None:
    request = recommendation.RecommendItemsRequest(user=user, max_results=5)
    await door.call("RecommendationService/RecommendItems", request, recommendation.RecommendItemsResponse)


async def _stats(door: Door) -> dict[str, pb.GetCacheStatsResponse.Kind]:
    reply = await door.call("CacheService/GetCacheStats", pb.GetCacheStatsRequest(), pb.GetCacheStatsResponse)
    assert 0 < reply.l1_bytes <= reply.l1_total_bytes <= reply.l1_max_bytes
    assert reply.l1_entry_count > 0
    return {one.kind: one for one in reply.kinds}


async def test_figures_follow_reads(door: Door, shop: Demo) -> None:
    """The second list of a user is a hit of profile and list; the HTTP door tells the same."""
    user = f"users/cached-{uuid.uuid4().hex}"
    await _recommend(door, user)
    before = await _stats(door)
    await _recommend(door, user)
    after = await _stats(door)
    for kind in ("profile", "recommendations"):
        assert after[kind].l1_hit_count > before[kind].l1_hit_count
        assert 0 < after[kind].hit_rate < 1
    answer = (await door.rest("GET", "/v1/cacheStats")).json()
    assert {one["kind"] for one in answer["kinds"]} == {"profile", "recommendations"}


@pytest.mark.parametrize("everybody", [False, True], ids=["one user", "everybody"])
async def test_what_is_emptied_is_computed_anew(door: Door, database: Database, shop: Demo, everybody: bool) -> None:  # noqa: FBT001
    """After InvalidateCache the next list of the user is computed; the audit log says that it happened, and of no user."""
    user = f"users/cached-{uuid.uuid4().hex}"
    await _recommend(door, user)
    before = await _stats(door)
    reply = await door.rest("POST", "/v1/cache:invalidate", json={} if everybody else {"users": [user]})
    assert reply.status_code == 200, reply.text
    assert int(reply.json()["invalidatedCount"]) >= 1
    await _recommend(door, user)
    after = await _stats(door)
    for kind in ("profile", "recommendations"):
        assert after[kind].miss_count > before[kind].miss_count
    async with database.tenant(SHOP) as connection:
        details = await connection.fetchval("SELECT details FROM audit_log WHERE action = 'invalidate_cache' ORDER BY entry DESC LIMIT 1")
    assert details == {"kinds": ["profile", "recommendations"], "users": "all" if everybody else 1}


async def test_bad_input_and_keys_without_the_scope_are_refused(door: Door, database: Database, shop: Demo) -> None:
    """An unknown kind or a malformed user is named; a key that may not administer gets PERMISSION_DENIED."""
    for request, field in (
        (pb.InvalidateCacheRequest(kinds=["everything"]), "kinds[0]"),
        (pb.InvalidateCacheRequest(users=["ann"]), "users[0]"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await door.call("CacheService/InvalidateCache", request, pb.InvalidateCacheResponse)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert field in str(refused.value.details())
    key = await new_key(database, SHOP, "recommend")
    with pytest.raises(grpc.aio.AioRpcError) as forbidden:
        await door.call("CacheService/GetCacheStats", pb.GetCacheStatsRequest(), pb.GetCacheStatsResponse, key=key)
    assert forbidden.value.code() == grpc.StatusCode.PERMISSION_DENIED
