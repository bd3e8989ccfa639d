"""Two tenants through the API: neither sees, changes or counts what is the other's."""

from __future__ import annotations

from dataclasses import dataclass, replace

import grpc
import numpy as np
import pytest

from aisle.v1 import event_service_pb2 as events
from aisle.v1 import item_service_pb2 as items
from aisle.v1 import recommendation_service_pb2 as pb
from aisle.v1 import vector_service_pb2 as vectors
from server.domain import TenantId
from server.store import Database
from server.store.tenants import create_tenant
from tests.eventually import eventually
from tests.fixtures_server import Door, new_key

SECRET = "items/secret"
USER = "users/both"


@dataclass(frozen=True, slots=True)
class Tenants:
    """The same doors with each tenant's key."""

    ann: Door
    bob: Door


@pytest.fixture(scope="module")
async def tenants(door: Door, database: Database) -> Tenants:
    """Ann has an item, a collection and events of a user; Bob has an item and a user of the same name."""
    doors = []
    for name in ("isolated-ann", "isolated-bob"):
        async with database.system() as connection:
            await create_tenant(connection, TenantId(name))
        doors.append(replace(door, key=await new_key(database, TenantId(name))))
    ann, bob = doors
    for name, one in ((SECRET, ann), ("items/own", bob)):
        request = items.BatchUpsertItemsRequest(items=[items.Item(name=name, title="A barn", categories=["venue"])])
        await one.call("ItemService/BatchUpsertItems", request, items.BatchUpsertItemsResponse)
    vector = vectors.Vector(id="a", vector=np.ones(3, "<f4").tobytes())
    request = vectors.UpsertVectorsRequest(collection="collections/kept", vectors=[vector])
    await ann.call("VectorService/UpsertVectors", request, vectors.UpsertVectorsResponse)
    return Tenants(ann, bob)


async def test_a_tenants_items_are_nobody_elses(tenants: Tenants) -> None:
    """Bob can neither read, list, change, delete, rank, resemble nor be recommended Ann's item; Ann can."""
    assert (await tenants.ann.rest("GET", f"/v1/{SECRET}")).status_code == 200
    for verb, path in (("GET", f"/v1/{SECRET}"), ("PATCH", f"/v1/{SECRET}"), ("DELETE", f"/v1/{SECRET}"), ("GET", f"/v1/{SECRET}:similar")):
        response = await tenants.bob.rest(verb, path, **({"json": {"title": "Mine"}} if verb == "PATCH" else {}))
        assert response.status_code == 404, path
    listed = (await tenants.bob.rest("GET", "/v1/items")).json()["items"]
    assert [one["name"] for one in listed] == ["items/own"]
    reply = await tenants.bob.call(
        "RecommendationService/RecommendItems", pb.RecommendItemsRequest(user=USER, max_results=500), pb.RecommendItemsResponse
    )
    assert [one.item for one in reply.items] == ["items/own"]
    ranked = await tenants.bob.call(
        "RecommendationService/RankItems", pb.RankItemsRequest(user=USER, items=[SECRET, "items/own"]), pb.RankItemsResponse
    )
    assert list(ranked.unknown_items) == [SECRET]
    assert (await tenants.ann.rest("GET", f"/v1/{SECRET}")).json()["title"] == "A barn"


async def test_a_tenants_collections_are_nobody_elses(tenants: Tenants) -> None:
    """Bob finds no collection of Ann's; one of the same name is another, of whatever dimension."""
    assert "collections" not in (await tenants.bob.rest("GET", "/v1/collections")).json()
    search = vectors.SearchVectorsRequest(collection="collections/kept", vector=np.ones(3, "<f4").tobytes())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await tenants.bob.call("VectorService/SearchVectors", search, vectors.SearchVectorsResponse)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert (await tenants.bob.rest("DELETE", "/v1/collections/kept")).status_code == 404
    own = vectors.UpsertVectorsRequest(collection="collections/kept", vectors=[vectors.Vector(id="b", vector=np.ones(2, "<f4").tobytes())])
    await tenants.bob.call("VectorService/UpsertVectors", own, vectors.UpsertVectorsResponse)
    found = await tenants.ann.call("VectorService/SearchVectors", search, vectors.SearchVectorsResponse)
    assert [match.id for match in found.matches] == ["a"]


async def test_a_tenants_users_and_decisions_are_nobody_elses(tenants: Tenants) -> None:
    """Events of a user make no profile of the user of the same name elsewhere; tokens and decisions open to their tenant alone."""
    sent = events.IngestEventsRequest(events=[events.Event(event_id="e1", user=USER, item=SECRET, event_type="book")])
    taken = await tenants.ann.call("EventService/IngestEvents", sent, events.IngestEventsResponse)
    token = {"x-aisle-consistency-token": taken.consistency_token}
    assert (await tenants.ann.rest("GET", f"/v1/{USER}/profile", headers=token)).status_code == 200
    assert (await tenants.bob.rest("GET", f"/v1/{USER}/profile")).status_code == 404
    assert (await tenants.bob.rest("DELETE", f"/v1/{USER}/profile")).status_code == 404
    assert (await tenants.bob.rest("GET", f"/v1/{USER}/behaviorPatterns")).json().get("eventCount", 0) == 0
    assert (await tenants.bob.rest("GET", f"/v1/{USER}:embed")).json().get("historyLength", 0) == 0
    refused = await tenants.bob.rest("GET", f"/v1/{USER}/behaviorPatterns", headers=token)
    assert (refused.status_code, "consistency_token" in refused.text) == (400, True)

    # The same event id counts in each tenant.
    await tenants.bob.call("EventService/IngestEvents", sent, events.IngestEventsResponse)

    async def both() -> bool:
        counts = [(await one.rest("GET", f"/v1/{USER}/profile")).json().get("engagementHistory") for one in (tenants.ann, tenants.bob)]
        return counts == [{"book": "1"}] * 2

    await eventually(both)
    decision = (await tenants.ann.rest("POST", f"/v1/{USER}:recommendItems", json={})).json()["decision"]

    async def written() -> bool:
        return (await tenants.ann.rest("GET", f"/v1/{decision}")).status_code == 200

    await eventually(written)
    assert (await tenants.bob.rest("GET", f"/v1/{decision}")).status_code == 404
