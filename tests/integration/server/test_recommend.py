"""Recommendations through both doors of a whole server."""

from __future__ import annotations

import uuid
from typing import Any

import grpc
import pytest

from aisle.v1 import event_service_pb2 as events
from aisle.v1 import item_service_pb2 as items
from aisle.v1 import recommendation_service_pb2 as pb
from server.demo.generate import Demo
from server.domain import Item, ItemId, TenantId
from server.store import Database
from server.store.items import upsert_items
from tests.eventually import eventually
from tests.fixtures_server import Door, new_key

USER = "users/couple-000001"


async def recommend(door: Door, user: str = USER, **fields: Any) -> pb.RecommendItemsResponse:
    """Returns the list of a user."""
    return await door.call("RecommendationService/RecommendItems", pb.RecommendItemsRequest(user=user, **fields), pb.RecommendItemsResponse)


def names(reply: pb.RecommendItemsResponse) -> list[str]:
    """Returns the items of a list."""
    return [one.item for one in reply.items]


async def test_both_doors_give_the_same_list(door: Door) -> None:
    """Both gRPC and REST answer one request with the same items and scores, at the top rung."""
    by_grpc = await recommend(door, max_results=10)
    response = await door.rest("POST", f"/v1/{USER}:recommendItems", json={"maxResults": 10})
    by_rest = response.json()
    assert response.status_code == 200
    assert [one["item"] for one in by_rest["items"]] == names(by_grpc)
    assert [one["score"] for one in by_rest["items"]] == [one.score for one in by_grpc.items]
    assert (by_rest["rung"], by_grpc.rung) == ("FULL", pb.Ladder.FULL)
    assert by_grpc.bundle.startswith("bundles/b-")
    assert len(by_grpc.items) == 10


async def test_scores_have_probabilities_at_both_doors(door: Door) -> None:
    """Every ranked item has the ranker's probability, which never rises down the list, computed, cached or explained; no other item has."""
    user = f"users/{uuid.uuid4().hex}"
    first, cached = await recommend(door, user=user, max_results=10), await recommend(door, user=user, max_results=10)
    chances = [one.probability for one in first.items]
    assert (cached.cached, len(chances)) == (True, 10)
    assert all(one.HasField("probability") and 0 <= one.probability <= 1 for one in first.items)
    assert chances == sorted(chances, reverse=True)
    assert chances[0] > 0
    assert [one.probability for one in cached.items] == chances
    assert [one.probability for one in (await recommend(door, user=user, max_results=10, explain=True)).items] == chances
    by_rest = (await door.rest("POST", f"/v1/{user}:recommendItems", json={"maxResults": 10})).json()
    assert [one["probability"] for one in by_rest["items"]] == chances
    page = (await door.rest("POST", "/v1/personalization:generate", json={"userId": user.removeprefix("users/")})).json()
    shown = page["personalizedContent"]["recommendations"]
    assert shown
    assert all(0 <= one["probability"] <= 1 for one in shown)

    asked = [*(one.item for one in first.items), "items/none"]
    ranked = await door.call("RecommendationService/RankItems", pb.RankItemsRequest(user=user, items=asked), pb.RankItemsResponse)
    assert [one.HasField("probability") for one in ranked.items] == [True] * 10 + [False]
    assert sum(one.probability for one in ranked.items) == pytest.approx(1, abs=1e-4), "the caller's items are all there is to choose from"
    by_rest = (await door.rest("POST", f"/v1/{user}:rankItems", json={"items": asked})).json()
    assert [one.get("probability") for one in by_rest["items"][:-1]] == [one.probability for one in ranked.items[:-1]]
    assert "probability" not in by_rest["items"][-1]


async def test_reasons_add_words_to_numbers(door: Door) -> None:
    """With `explain` every item has reasons with source, contribution and text, largest first; without it none."""
    explained = await recommend(door, max_results=5, explain=True)
    for one in explained.items:
        contributions = [reason.contribution for reason in one.reasons]
        assert contributions == sorted(contributions, reverse=True)
        assert all(reason.text and reason.source for reason in one.reasons)
        assert one.reasons
    assert not any(one.reasons for one in (await recommend(door, max_results=5)).items)
    assert names(explained) == names(await recommend(door, max_results=5))


async def test_seen_items_are_left_out_unless_asked_for(door: Door, shop: Demo) -> None:
    """No item of the user's history is recommended, unless `include_seen` is set."""
    seen = {f"items/{event.item_id}" for event in shop.events if f"users/{event.user_id}" == USER}
    assert not seen & set(names(await recommend(door, max_results=200)))
    assert seen & set(names(await recommend(door, max_results=200, include_seen=True)))


async def test_filters_hold_for_every_item(door: Door, shop: Demo) -> None:
    """Every item of a filtered list passes the filter, and none that passes is left out while there is room."""
    by_id = {f"items/{item.item_id}": item for item in shop.items}
    reply = await recommend(door, max_results=100, filter='categories:"venue" AND price <= 20000')
    seen = {f"items/{event.item_id}" for event in shop.events if f"users/{event.user_id}" == USER}
    fitting = [name for name, item in by_id.items() if "venue" in item.categories and (item.price or 0) <= 20000 and not item.content_type]
    assert sorted(names(reply)) == sorted(set(fitting) - seen)
    for name in names(reply):
        assert "venue" in by_id[name].categories
        assert (by_id[name].price or 0) <= 20000


@pytest.mark.parametrize(("expression", "position"), [("price <", 7), ("price << 3", 7), ('title = "open', 8), ("no_such_field = 1", 0)])
async def test_a_filter_error_shows_its_position(door: Door, expression: str, position: int) -> None:
    """A filter that does not parse is INVALID_ARGUMENT with its reason and position, through both doors."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await recommend(door, filter=expression)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    response = await door.rest("POST", f"/v1/{USER}:recommendItems", json={"filter": expression})
    info = next(detail for detail in response.json()["details"] if detail["@type"].endswith("ErrorInfo"))
    assert (response.status_code, info["reason"]) == (400, "FILTER_SYNTAX")
    assert info["metadata"]["position"] == str(position)


async def test_a_stranger_gets_a_full_list(door: Door) -> None:
    """A user nobody has heard of gets as many items as asked for."""
    reply = await recommend(door, user="users/nobody-has-met", max_results=15)
    assert len(reply.items) == 15
    assert reply.consistent


async def test_an_empty_catalogue_gives_an_empty_list(door: Door, database: Database, tenant_id: TenantId) -> None:
    """A tenant without items gets an empty list that says which rung it is on, not an error."""
    key = await new_key(database, tenant_id)
    request = pb.RecommendItemsRequest(user=USER)
    reply = await door.call("RecommendationService/RecommendItems", request, pb.RecommendItemsResponse, key=key)
    assert not reply.items
    assert reply.rung == pb.Ladder.NO_RANKER
    assert "aisle train" in reply.rung_reason


async def test_without_a_ranker_nothing_is_said_of_probabilities(door: Door, database: Database, tenant_id: TenantId) -> None:
    """Items of a tenant without bundle, and similar items of any, have a score and no probability; the record has none."""
    async with database.tenant(tenant_id) as connection:
        await upsert_items(connection, [Item(item_id=ItemId("barn"), title="A barn")])
    key = await new_key(database, tenant_id)
    reply = await door.call("RecommendationService/RecommendItems", pb.RecommendItemsRequest(user=USER), pb.RecommendItemsResponse, key=key)
    assert [(one.item, one.HasField("probability")) for one in reply.items] == [("items/barn", False)]

    async def written() -> bool:
        return (await door.rest("GET", f"/v1/{reply.decision}", key=key)).status_code == 200

    await eventually(written)
    assert "probabilities" not in (await door.rest("GET", f"/v1/{reply.decision}", key=key)).json()
    similar = await door.rest("GET", f"/v1/{names(await recommend(door))[0]}:similar")
    assert not any("probability" in one for one in similar.json()["items"])


async def test_a_token_makes_the_next_list_see_the_event(door: Door) -> None:
    """An ingested click is seen by the very next request that carries its token: the item is gone from the list."""
    user = f"users/{uuid.uuid4().hex}"
    first = names(await recommend(door, user=user, max_results=5))[0]
    ingested = await door.call(
        "EventService/IngestEvents",
        events.IngestEventsRequest(events=[events.Event(user=user, item=first, event_type="click")]),
        events.IngestEventsResponse,
    )
    after = await recommend(door, user=user, max_results=5, consistency_token=ingested.consistency_token)
    assert after.consistent
    assert first not in names(after)


async def test_events_change_lists_without_a_token(door: Door) -> None:
    """Once applied, events change the list of their user, cached or not."""
    user = f"users/{uuid.uuid4().hex}"
    first = names(await recommend(door, user=user, max_results=5))[0]
    await door.rest("POST", "/v1/events:ingest", json={"events": [{"user": user, "item": first, "eventType": "save"}]})

    async def gone() -> bool:
        return first not in names(await recommend(door, user=user, max_results=5))

    await eventually(gone)


async def test_a_foreign_token_is_refused(door: Door) -> None:
    """A consistency token that IngestEvents never returned is INVALID_ARGUMENT."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await recommend(door, consistency_token="nonsense")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "consistency_token" in (caught.value.details() or "")


async def test_ranking_keeps_the_callers_items(door: Door, shop: Demo) -> None:
    """RankItems returns exactly the caller's items, each once, unknown ones last and named."""
    asked = [f"items/{item.item_id}" for item in shop.items if not item.content_type][:30]
    request = pb.RankItemsRequest(user=USER, items=[*asked, "items/none", asked[0]])
    reply = await door.call("RecommendationService/RankItems", request, pb.RankItemsResponse)
    assert sorted(one.item for one in reply.items) == sorted([*asked, "items/none"])
    assert reply.items[-1].item == "items/none"
    assert list(reply.unknown_items) == ["items/none"]
    scores = [one.score for one in reply.items[:-1]]
    assert scores == sorted(scores, reverse=True)


async def test_too_long_a_list_is_refused(door: Door) -> None:
    """A list of 10,000 items is INVALID_ARGUMENT that names the field, not an overload."""
    request = pb.RankItemsRequest(user=USER, items=[f"items/{number}" for number in range(10_000)])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await door.call("RecommendationService/RankItems", request, pb.RankItemsResponse)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "items" in (caught.value.details() or "")


async def test_similar_items_share_what_makes_them_similar(door: Door, shop: Demo) -> None:
    """ListSimilarItems gives other items, nearly all of the same category or city, and NOT_FOUND for an unknown one."""
    venue = next(item for item in shop.items if "venue" in item.categories and not item.content_type)
    response = await door.rest("GET", f"/v1/items/{venue.item_id}:similar?maxResults=10")
    found = [one["item"].removeprefix("items/") for one in response.json()["items"]]
    by_id = {item.item_id: item for item in shop.items}
    assert venue.item_id not in found
    city = venue.attributes["city"]
    assert sum("venue" in by_id[one].categories or by_id[one].attributes["city"] == city for one in found) >= 8
    assert (await door.rest("GET", "/v1/items/none:similar")).status_code == 404


async def test_a_written_item_is_found_and_a_deleted_one_is_not(door: Door) -> None:
    """A created item is in the next filtered list; after its deletion it is in none."""
    item_id = f"new-{uuid.uuid4().hex}"
    created = await door.call(
        "ItemService/CreateItem",
        items.CreateItemRequest(item_id=item_id, item=items.Item(title="A lighthouse for forty guests", categories=[item_id])),
        items.Item,
    )
    assert created.name == f"items/{item_id}"
    assert names(await recommend(door, filter=f'categories:"{item_id}"')) == [created.name]
    assert (await door.rest("DELETE", f"/v1/items/{item_id}")).status_code == 200
    assert names(await recommend(door, filter=f'categories:"{item_id}"')) == []


async def test_decisions_can_be_read_back(door: Door) -> None:
    """Each list leaves a record: items, scores, propensities, rung and bundle, readable a moment later."""
    reply = await recommend(door, max_results=7)

    async def written() -> bool:
        return (await door.rest("GET", f"/v1/{reply.decision}")).status_code == 200

    await eventually(written)
    record = await door.call("RecommendationService/GetDecision", pb.GetDecisionRequest(name=reply.decision), pb.Decision)
    assert list(record.items) == names(reply)
    assert list(record.propensities) == [1.0] * 7
    assert list(record.probabilities) == [one.probability for one in reply.items]
    assert (record.user, record.rung, record.bundle) == (USER, reply.rung, reply.bundle)


async def test_a_second_request_comes_from_the_cache(door: Door) -> None:
    """The same request twice gives the same list, the second time from a cache and with a decision of its own."""
    user = f"users/{uuid.uuid4().hex}"
    first, second = await recommend(door, user=user), await recommend(door, user=user)
    assert (first.cached, second.cached) == (False, True)
    assert names(first) == names(second)
    assert first.decision != second.decision
