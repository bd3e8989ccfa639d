"""Pages and profiles through both doors: the seed's shapes, content from the catalogue alone, and profiles as callers keep them."""

from __future__ import annotations

import uuid
from base64 import b64decode
from typing import Any

import numpy as np
import pytest

from aisle.v1 import embedding_service_pb2 as embedding
from aisle.v1 import event_service_pb2 as events
from aisle.v1 import personalization_service_pb2 as pb
from server.demo.generate import Demo
from server.domain import TenantId
from server.store import Database
from tests.eventually import eventually
from tests.fixtures_server import Door, new_key

PATHS = ("/v1/personalization:generate", "/api/ai/personalization/generate")
SEED: dict[str, Any] = {
    "userId": "couple-000001",
    "context": {
        "currentPage": "/wedding-venues",
        "sessionData": {"visits": 3},
        "userAgent": "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) Mobile/15E148",
        "location": {"city": "Porto", "country": "PT"},
    },
    "contentTypes": ["hero_banner", "recommendations", "cta_buttons"],
    "personalizationDepth": "comprehensive",
}
"""The request of the API reference."""
PIPELINE: dict[str, Any] = {
    "userId": "couple-000001",
    "context": {
        "currentPage": "/wedding-venues",
        "userBehavior": [{"eventType": "view"}],
        "demographicData": {"ageGroup": "25-34"},
        "weddingContext": {"date": "2027-06-12", "guestCount": 80, "budget": 25000, "style": "rustic", "city": "Porto"},
        "brandPreferences": {"name": "Aisle"},
    },
    "options": {"contentTypes": ["hero_banner", "recommendations"], "personalizationDepth": "advanced", "realTimeAdaptation": True},
}
"""The request of the pipeline's description: content types and depth nested."""


async def page(door: Door, body: dict[str, Any], path: str = PATHS[0]) -> dict[str, Any]:
    """Returns a page by REST."""
    response = await door.rest("POST", path, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def titles(shop: Demo) -> dict[str, str]:
    """Returns the titles of the catalogue by resource name."""
    return {f"items/{item.item_id}": item.title for item in shop.items}


@pytest.mark.parametrize("path", PATHS)
async def test_the_seeds_request_gets_the_seeds_response(door: Door, shop: Demo, path: str) -> None:
    """Banner, items and buttons come with confidence, time, cache and factors; every one of them stands in the catalogue."""
    answer = await page(door, SEED, path)
    assert answer["success"] is True
    assert 0 <= answer["confidence"] <= 1
    assert isinstance(answer.get("processingTime", 0), int)
    assert 0 < answer["cacheInfo"]["ttlS"] <= 1800
    assert answer["rung"] == "FULL"
    content = answer["personalizedContent"]
    assert set(content) == {"hero_banner", "recommendations", "cta_buttons"}
    by_id = {f"items/{item.item_id}": item for item in shop.items}
    banner = content["hero_banner"]
    assert by_id[banner["item"]].content_type == "hero_banner"
    assert banner["headline"] == (by_id[banner["item"]].attributes.get("headline") or by_id[banner["item"]].title)
    for block in (banner, *content["cta_buttons"]):
        assert 0 <= block["confidence"] <= 1
        assert block["cta"] == by_id[block["item"]].attributes["cta"]
    assert 1 <= len(content["cta_buttons"]) <= 3
    assert {by_id[one["item"]].content_type for one in content["cta_buttons"]} == {"cta_buttons"}
    assert len(content["recommendations"]) == 20
    for one in content["recommendations"]:
        assert (one["title"], by_id[one["item"]].content_type) == (titles(shop)[one["item"]], "")
        assert one["reasons"]
    assert answer["personalizationFactors"]


async def test_options_may_be_nested(door: Door) -> None:
    """The other shape of the seed is understood: nested content types and depth count, what was not asked for is absent."""
    answer = await page(door, PIPELINE)
    content = answer["personalizedContent"]
    assert set(content) == {"hero_banner", "recommendations"}
    assert len(content["recommendations"]) == 10
    assert not any("reasons" in one for one in content["recommendations"])
    assert "style:rustic" in answer["personalizationFactors"]


async def test_depth_decides_what_counts(door: Door, shop: Demo) -> None:
    """`basic` gives strangers and known users the same items; `advanced` does not; each has its number of items."""

    async def listed(user: str, depth: str) -> list[str]:
        answer = await page(door, {"userId": user, "personalizationDepth": depth, "contentTypes": ["recommendations"]})
        return [one["item"] for one in answer["personalizedContent"]["recommendations"]]

    stranger = uuid.uuid4().hex
    known = shop.users[2].user_id
    assert len(await listed(stranger, "basic")) == 6
    assert len(await listed(known, "comprehensive")) == 20
    assert await listed(known, "advanced") != await listed(stranger, "advanced")


async def test_both_doors_give_the_same_page(door: Door) -> None:
    """GRPC and REST choose the same banner, items and buttons with the same confidence."""
    request = pb.GeneratePersonalizationRequest(user_id="users/couple-000003", personalization_depth="comprehensive")
    ours = await door.call("PersonalizationService/GeneratePersonalization", request, pb.GeneratePersonalizationResponse)
    theirs = await page(door, {"userId": "couple-000003", "personalizationDepth": "comprehensive"})
    content = theirs["personalizedContent"]
    assert content["hero_banner"]["item"] == ours.personalized_content.hero_banner.item
    assert [one["item"] for one in content["recommendations"]] == [one.item for one in ours.personalized_content.recommendations]
    assert [one["item"] for one in content["cta_buttons"]] == [one.item for one in ours.personalized_content.cta_buttons]
    assert theirs["confidence"] == ours.confidence
    assert theirs["cacheInfo"]["hit"] is True


async def test_tastes_get_banners_of_their_own(door: Door) -> None:
    """A rustic and a glamorous couple get different banners, each with its taste among the factors that spoke for it."""
    banners = {}
    for style in ("rustic", "glamorous"):
        body = {"userId": uuid.uuid4().hex, "context": {"weddingContext": {"style": style}}, "contentTypes": ["hero_banner"]}
        banners[style] = (await page(door, body))["personalizedContent"]["hero_banner"]
        assert f"style:{style}" in banners[style]["personalizationFactors"]
    assert banners["rustic"]["item"] != banners["glamorous"]["item"]


async def test_a_page_counts_what_was_done_on_it(door: Door, shop: Demo) -> None:
    """Behaviour sent with the page changes its items and is kept nowhere; without adaptation it does not count."""
    item = next(one for one in shop.items if "music" in one.categories or "photographer" in one.categories)
    user = uuid.uuid4().hex
    plain = {"userId": user, "contentTypes": ["recommendations"]}
    done = {**plain, "context": {"userBehavior": [{"itemId": item.item_id, "eventType": "save"}] * 3}}
    before, after = await page(door, plain), await page(door, done)
    ignored = await page(door, {**done, "options": {"realTimeAdaptation": False}})
    assert after["personalizedContent"] != before["personalizedContent"]
    assert ignored["personalizedContent"] == before["personalizedContent"]
    assert (await door.rest("GET", f"/v1/users/{user}/profile")).status_code == 404


async def test_an_empty_catalogue_makes_an_empty_page(door: Door, database: Database, tenant_id: TenantId) -> None:
    """A tenant without content blocks gets a page without them, and nothing is invented."""
    response = await door.rest("POST", PATHS[1], json=SEED, key=await new_key(database, tenant_id))
    assert response.status_code == 200
    assert response.json().get("personalizedContent", {}) == {}


async def test_profiles_are_kept_at_both_paths(door: Door) -> None:
    """A profile is put, patched by mask, read and deleted by either name; an etag that is out of date is refused."""
    user = uuid.uuid4().hex
    seed, named = f"/api/ai/personalization/user-profile/{user}", f"/v1/users/{user}/profile"
    assert (await door.rest("GET", seed)).status_code == 404
    put = await door.rest("PUT", seed, json={"traits": {"style": "rustic", "budget": 20000}, "locale": "pt-PT"})
    assert put.json()["name"] == f"users/{user}/profile"
    patched = await door.rest("PATCH", f"{named}?updateMask=locale,preferenceScores", json={"preferenceScores": {"venue": 0.8}})
    assert patched.status_code == 200, patched.text
    read = (await door.rest("GET", seed)).json()
    assert read == (await door.rest("GET", named)).json() == patched.json()
    assert read["traits"] == {"style": "rustic", "budget": 20000}
    assert read["preferenceScores"] == {"venue": 0.8}
    assert "locale" not in read
    stale = await door.rest("PATCH", named, json={"locale": "en", "etag": put.json()["etag"]})
    assert (stale.status_code, stale.json()["details"][0]["reason"]) == (409, "ABORTED")
    assert (await door.rest("PATCH", named, json={"locale": "en", "etag": read["etag"]})).json()["locale"] == "en"
    assert (await door.rest("DELETE", seed)).status_code == 200
    assert (await door.rest("GET", named)).status_code == 404


async def test_behaviour_and_vector_come_from_the_history(door: Door, shop: Demo) -> None:
    """Patterns and the fused vector hold the events of the request's token, alike at both doors; strangers have none."""
    user = f"users/{uuid.uuid4().hex}"
    venues = [f"items/{item.item_id}" for item in shop.items if "venue" in item.categories][:3]
    sent = [events.Event(user=user, item=name, event_type="view") for name in venues]
    taken = await door.call("EventService/IngestEvents", events.IngestEventsRequest(events=sent), events.IngestEventsResponse)
    token = taken.consistency_token
    request = events.GetBehaviorPatternsRequest(user=user, consistency_token=token)
    ours = await door.call("EventService/GetBehaviorPatterns", request, events.BehaviorPatterns)
    assert ours.consistent
    assert (ours.event_count, ours.session_count) == (3, 1)
    assert ours.intent_stage == events.BehaviorPatterns.EXPLORE
    assert abs(sum(top.share for top in ours.top_categories) - 1) < 1e-6
    assert ours.cluster
    theirs = (await door.rest("GET", f"/v1/{user}/behaviorPatterns", params={"consistencyToken": token})).json()
    assert (theirs["eventCount"], theirs["cluster"]) == (3, ours.cluster)

    asked = embedding.EmbedUserRequest(user=user, consistency_token=token)
    vector = await door.call("EmbeddingService/EmbedUser", asked, embedding.EmbedUserResponse)
    assert (vector.history_length, len(vector.vector), vector.consistent) == (3, 4 * 1536, True)
    assert np.isfinite(np.frombuffer(vector.vector, "<f4")).all()
    assert np.frombuffer(vector.vector, "<f4")[:384].any()
    by_rest = (await door.rest("GET", f"/v1/{user}:embed", params={"consistencyToken": token})).json()
    assert np.allclose(np.frombuffer(b64decode(by_rest["vector"]), "<f4"), np.frombuffer(vector.vector, "<f4"), atol=1e-5)

    async def counted() -> bool:
        """Counts wait for the worker, which alone knows what counted before."""
        return (await door.rest("GET", f"/v1/{user}/behaviorPatterns")).json().get("eventTypeCounts") == {"view": "3"}

    await eventually(counted)
    nobody = (await door.rest("GET", f"/v1/users/{uuid.uuid4().hex}/behaviorPatterns")).json()
    assert nobody.get("eventCount", 0) == 0
    assert "topCategories" not in nobody
