"""AWS Personalize's own SDK against the running server."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from botocore import UNSIGNED
from botocore.client import Config
from botocore.exceptions import ClientError

from server.demo.generate import Demo
from server.domain import TenantId
from server.store import Database
from server.store.aws_filters import put_filters
from tests.aws_credentials import aws_key
from tests.eventually import eventually
from tests.fixtures_server import SHOP, Door

USER = "couple-000003"


@dataclass(frozen=True, slots=True)
class Aws:
    """Clients of both services, and how to make others."""

    runtime: Any
    events: Any
    client: Callable[..., Any]

    async def ask(self, operation: str, **arguments: Any) -> Any:
        """Returns the reply of an operation of the runtime service; the SDK blocks, so a thread runs it."""
        return await asyncio.to_thread(getattr(self.runtime, operation), **arguments)

    async def put(self, operation: str, **arguments: Any) -> Any:
        """Returns the reply of an operation of the events service."""
        return await asyncio.to_thread(getattr(self.events, operation), **arguments)


@pytest.fixture(scope="session")
async def aws(door: Door, database: Database) -> Aws:
    """Clients as their users make them, but for the endpoint."""
    credentials = await aws_key(database, SHOP)
    session = boto3.Session(
        aws_access_key_id=credentials.access_key_id, aws_secret_access_key=credentials.secret_access_key, region_name="eu-west-1"
    )

    def client(service: str, **options: Any) -> Any:
        options.setdefault("config", Config(retries={"total_max_attempts": 1}))
        return session.client(service, endpoint_url=f"http://{door.serving.http_address}/compat/aws", **options)

    return Aws(client("personalize-runtime"), client("personalize-events"), client)


def ids(entries: list[dict[str, Any]]) -> list[str]:
    """Returns the items of a list."""
    return [entry["itemId"] for entry in entries]


async def test_recommendations_are_those_of_the_native_api(aws: Aws, door: Door) -> None:
    """GetRecommendations gives the list that RecommendItems gives, 25 long by default, with scores and the decision as its id."""
    reply = await aws.ask("get_recommendations", campaignArn="arn:aws:personalize:eu-west-1:1:campaign/shop", userId=USER)
    native = (await door.rest("POST", f"/v1/users/{USER}:recommendItems", json={"maxResults": 25, "includeSeen": True})).json()
    assert ids(reply["itemList"]) == [one["item"].removeprefix("items/") for one in native["items"]]
    assert [entry["score"] for entry in reply["itemList"]] == [one["score"] for one in native["items"]]
    assert len(reply["itemList"]) == 25
    assert len(reply["recommendationId"]) == 32
    assert reply["ResponseMetadata"]["RequestId"]


async def test_related_items_are_those_of_the_native_api(aws: Aws, door: Door, shop: Demo) -> None:
    """With an itemId the list is that of ListSimilarItems, without the item itself."""
    item = next(one for one in shop.items if not one.content_type)
    reply = await aws.ask("get_recommendations", campaignArn="similar", itemId=item.item_id, numResults=5)
    native = (await door.rest("GET", f"/v1/items/{item.item_id}:similar", params={"maxResults": 5})).json()
    assert ids(reply["itemList"]) == [one["item"].removeprefix("items/") for one in native["items"]]


@pytest.fixture(scope="session")
async def filters(aws: Aws, database: Database) -> dict[str, str]:
    """Filters of the shop, as `aisle import aws-filters` writes them."""
    made = {
        "venues": 'INCLUDE ItemID WHERE Items.CATEGORIES IN ("venue")',
        "in-city": "INCLUDE ItemID WHERE Items.CITY IN ($CITY)",
        "not-in-city": "EXCLUDE ItemID WHERE Items.CITY IN ($CITY)",
        "cheap": "INCLUDE ItemID WHERE Items.PRICE <= $MAX",
        "not-saved": 'EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("save")',
        "saved": 'INCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("save")',
        "unseen-venues": 'INCLUDE ItemID WHERE Items.CATEGORIES IN ("venue") | EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("*")',
        "for-members": 'INCLUDE ItemID WHERE Items.CATEGORIES IN ("venue") IF CurrentUser.TIER IN ("gold")',
        "same-city": "INCLUDE ItemID WHERE Items.CITY IN (CurrentItem.CITY)",
    }
    async with database.tenant(SHOP) as connection:
        await put_filters(connection, made)
    return made


def arn(name: str) -> str:
    """Returns the ARN of a filter."""
    return f"arn:aws:personalize:eu-west-1:1:filter/{name}"


async def test_filters_over_items_let_only_those_through(aws: Aws, filters: dict[str, str], shop: Demo) -> None:
    """INCLUDE and EXCLUDE over items, with values and with parameters of several values, keep to them."""
    items = {one.item_id: one for one in shop.items}
    venues = await aws.ask("get_recommendations", campaignArn="c", userId=USER, filterArn=arn("venues"))
    assert venues["itemList"]
    assert all("venue" in items[one].categories for one in ids(venues["itemList"]))
    cities = sorted({str(one.attributes["city"]) for one in shop.items if "city" in one.attributes})[:2]
    values = {"CITY": ",".join(f'"{city}"' for city in cities)}
    inside = await aws.ask("get_recommendations", campaignArn="c", userId=USER, filterArn=arn("in-city"), filterValues=values)
    assert {items[one].attributes["city"] for one in ids(inside["itemList"])} == set(cities)
    outside = await aws.ask("get_recommendations", campaignArn="c", userId=USER, filterArn=arn("not-in-city"), filterValues=values)
    assert not {items[one].attributes.get("city") for one in ids(outside["itemList"])} & set(cities)
    cheap = await aws.ask("get_recommendations", campaignArn="c", userId=USER, filterArn="cheap", filterValues={"MAX": "800"})
    assert cheap["itemList"]
    assert all((items[one].price or 0) <= 800 for one in ids(cheap["itemList"]))


async def test_filters_over_interactions_know_what_the_user_did(aws: Aws, filters: dict[str, str], shop: Demo) -> None:
    """EXCLUDE of an event type leaves out just the items with one, INCLUDE keeps nothing else, and `*` means any type."""
    mine = [event for event in shop.events if event.user_id == USER and event.item_id]
    saved = {event.item_id for event in mine if event.event_type == "save"}
    touched = {event.item_id for event in mine}
    assert saved
    assert touched - saved
    without = await aws.ask("get_recommendations", campaignArn="c", userId=USER, filterArn=arn("not-saved"), numResults=200)
    assert not saved & set(ids(without["itemList"]))
    assert (touched - saved) & set(ids(without["itemList"]))  # seen, and shown again, as Personalize does
    only = await aws.ask("get_recommendations", campaignArn="c", userId=USER, filterArn=arn("saved"))
    assert ids(only["itemList"])
    assert set(ids(only["itemList"])) <= saved
    unseen = await aws.ask("get_recommendations", campaignArn="c", userId=USER, filterArn=arn("unseen-venues"))
    assert unseen["itemList"]
    assert not touched & set(ids(unseen["itemList"]))


async def test_filters_over_the_user_and_the_item(aws: Aws, filters: dict[str, str], shop: Demo) -> None:
    """IF CurrentUser applies the filter to users with that trait alone, CurrentItem takes values from the item asked about."""
    items = {one.item_id: one for one in shop.items}
    for user, tier in (("aws-gold", "gold"), ("aws-plain", "plain")):
        await aws.put("put_users", datasetArn="d/USERS", users=[{"userId": user, "properties": f'{{"tier": "{tier}"}}'}])
    gold, plain = [
        await aws.ask("get_recommendations", campaignArn="c", userId=user, filterArn=arn("for-members"))
        for user in ("aws-gold", "aws-plain")
    ]
    assert all("venue" in items[one].categories for one in ids(gold["itemList"]))
    assert not all("venue" in items[one].categories for one in ids(plain["itemList"]))
    item = next(one for one in shop.items if "city" in one.attributes and not one.content_type)
    same = await aws.ask("get_recommendations", campaignArn="c", itemId=item.item_id, filterArn=arn("same-city"))
    assert same["itemList"]
    assert {items[one].attributes["city"] for one in ids(same["itemList"])} == {item.attributes["city"]}


async def test_promotions_get_their_share_and_columns_come_along(aws: Aws, filters: dict[str, str], shop: Demo) -> None:
    """A promotion of 20 percent fills a fifth of the list with items of its filter, named; metadata columns come as texts."""
    items = {one.item_id: one for one in shop.items}
    reply = await aws.ask(
        "get_recommendations",
        campaignArn="c",
        userId=USER,
        numResults=10,
        promotions=[{"name": "halls", "percentPromotedItems": 20, "filterArn": arn("venues")}],
        metadataColumns={"ITEMS": ["TITLE", "CITY"]},
    )
    promoted = [entry for entry in reply["itemList"] if entry.get("promotionName") == "halls"]
    assert (len(reply["itemList"]), len(promoted)) == (10, 2)
    assert len(set(ids(reply["itemList"]))) == 10
    assert all("venue" in items[entry["itemId"]].categories and entry["reason"] == ["Promoted"] for entry in promoted)
    for entry in reply["itemList"]:
        assert entry["metadata"]["TITLE"] == items[entry["itemId"]].title
        assert entry["metadata"].get("CITY") == items[entry["itemId"]].attributes.get("city")


async def test_rankings_order_the_callers_items(aws: Aws, door: Door, filters: dict[str, str], shop: Demo) -> None:
    """GetPersonalizedRanking orders as RankItems does, unknown items last; a filter takes items out."""
    items = [one for one in shop.items if not one.content_type][:20]
    asked = ["nobody-knows-it", *(one.item_id for one in items)]
    reply = await aws.ask("get_personalized_ranking", campaignArn="c", userId=USER, inputList=asked)
    native = (await door.rest("POST", f"/v1/users/{USER}:rankItems", json={"items": [f"items/{one}" for one in asked]})).json()
    assert ids(reply["personalizedRanking"]) == [one["item"].removeprefix("items/") for one in native["items"]]
    assert ids(reply["personalizedRanking"])[-1] == "nobody-knows-it"
    kept = await aws.ask("get_personalized_ranking", campaignArn="c", userId=USER, inputList=asked, filterArn=arn("venues"))
    assert set(ids(kept["personalizedRanking"])) == {one.item_id for one in items if "venue" in one.categories}


async def test_what_is_put_is_found(aws: Aws, door: Door) -> None:
    """Items, users and events that are put are there in the native API: columns as attributes, traits, history."""
    item, user = f"aws-{uuid.uuid4().hex[:8]}", f"aws-{uuid.uuid4().hex[:8]}"
    properties = '{"title": "A barn", "price": 900.5, "categoryL1": "venue|barn", "city": "Porto", "creationTimestamp": 1700000000}'
    await aws.put(
        "put_items", datasetArn="arn:aws:personalize:eu-west-1:1:dataset/g/ITEMS", items=[{"itemId": item, "properties": properties}]
    )
    stored = (await door.rest("GET", f"/v1/items/{item}")).json()
    assert (stored["title"], stored["price"], stored["categories"]) == ("A barn", 900.5, ["venue", "barn"])
    assert stored["attributes"] == {"category_l1": ["venue", "barn"], "city": "Porto", "creation_timestamp": 1700000000}
    await aws.put("put_users", datasetArn="d/USERS", users=[{"userId": user, "properties": '{"ageGroup": "30-39"}'}])
    event = {"eventType": "AddToCart", "itemId": item, "sentAt": 1_700_000_000, "eventValue": 2.5, "properties": '{"color": "red"}'}
    for _ in range(2):  # the second is what an SDK sends when the first one's reply is lost
        reply = await aws.put("put_events", trackingId="t", userId=user, sessionId=f"s-{user}", eventList=[event])
    token = reply["ResponseMetadata"]["HTTPHeaders"]["x-aisle-consistency-token"]
    profile = (await door.rest("GET", f"/v1/users/{user}/profile", params={"consistencyToken": token})).json()
    assert profile["traits"] == {"age_group": "30-39"}
    assert [(one["item"], one["eventType"], one["value"]) for one in profile["history"]] == [(f"items/{item}", "add_to_cart", 2.5)]
    await door.rest("DELETE", f"/v1/items/{item}")  # other tests count the shop's venues


async def test_a_session_becomes_its_users(aws: Aws, door: Door) -> None:
    """Events of a session before its user signed in are the user's once one with the userId came."""
    session, user = f"s-{uuid.uuid4().hex[:8]}", f"aws-{uuid.uuid4().hex[:8]}"
    for number, known in enumerate(({}, {"userId": user})):
        event = {"eventType": "click", "itemId": f"item-{number}", "sentAt": 1_700_000_000 + number}
        await aws.put("put_events", trackingId="t", sessionId=session, eventList=[event], **known)

    async def merged() -> bool:
        profile = (await door.rest("GET", f"/v1/users/{user}/profile")).json()
        return [one["item"] for one in profile.get("history", [])] == ["items/item-0", "items/item-1"]

    await eventually(merged)


@pytest.mark.parametrize(
    ("operation", "arguments", "code", "status"),
    [
        ("get_recommendations", {"campaignArn": "c"}, "InvalidInputException", 400),
        ("get_recommendations", {"campaignArn": "c", "userId": "u", "filterArn": "filter/none"}, "ResourceNotFoundException", 404),
        ("get_recommendations", {"campaignArn": "c", "itemId": "no-such-item"}, "ResourceNotFoundException", 404),
        ("get_recommendations", {"campaignArn": "c", "userId": "u", "filterArn": "in-city"}, "InvalidInputException", 400),
        ("get_recommendations", {"campaignArn": "c", "userId": "u", "numResults": 501}, "InvalidInputException", 400),
        ("get_action_recommendations", {"campaignArn": "c", "userId": "u"}, "ResourceNotFoundException", 404),
    ],
)
async def test_errors_are_those_that_the_sdk_models(
    aws: Aws, filters: dict[str, str], operation: str, arguments: dict[str, Any], code: str, status: int
) -> None:
    """What is refused is refused with AWS's error name and status, so that the SDK raises its own classes."""
    with pytest.raises(ClientError) as caught:
        await aws.ask(operation, **arguments)
    assert caught.value.response["Error"]["Code"] == code
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    if code in {"InvalidInputException", "ResourceNotFoundException"}:
        assert type(caught.value).__name__ == code


async def test_wrong_credentials_open_nothing(aws: Aws, door: Door, database: Database) -> None:
    """A wrong secret, an unknown id, a key without the scope `aws`, and one without the operation's scope are refused."""
    right = await aws_key(database, SHOP, "events", "aws")
    bare = await aws_key(database, SHOP, "admin")
    cases = [
        ((right.access_key_id, "0" * 64), "UnrecognizedClientException"),
        (("aisle_shop_000000000000", right.secret_access_key), "UnrecognizedClientException"),
        ((bare.access_key_id, bare.secret_access_key), "UnrecognizedClientException"),
        ((right.access_key_id, right.secret_access_key), "AccessDeniedException"),
    ]
    for (access, secret), code in cases:
        client = aws.client("personalize-runtime", aws_access_key_id=access, aws_secret_access_key=secret)
        with pytest.raises(ClientError) as caught:
            await asyncio.to_thread(client.get_recommendations, campaignArn="c", userId=USER)
        assert (caught.value.response["Error"]["Code"], caught.value.response["ResponseMetadata"]["HTTPStatusCode"]) == (code, 403)


async def test_a_key_signs_for_its_own_tenant(aws: Aws, database: Database, tenant_id: TenantId, filters: dict[str, str]) -> None:
    """Another tenant's credentials see neither this tenant's items nor its filters."""
    other = await aws_key(database, tenant_id)
    client = aws.client("personalize-runtime", aws_access_key_id=other.access_key_id, aws_secret_access_key=other.secret_access_key)
    assert (await asyncio.to_thread(client.get_recommendations, campaignArn="c", userId=USER))["itemList"] == []
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        await asyncio.to_thread(client.get_recommendations, campaignArn="c", userId=USER, filterArn=arn("venues"))


async def test_unsigned_requests_of_this_machine_are_the_local_tenants(aws: Aws) -> None:
    """A client that signs nothing, on the server's own machine, is the local tenant, as with any other call without a key."""
    client = aws.client("personalize-runtime", config=Config(signature_version=UNSIGNED))
    reply = await asyncio.to_thread(client.get_recommendations, campaignArn="c", userId=USER, numResults=3)
    assert len(reply["itemList"]) == 3


async def test_circumstances_reach_the_decision(aws: Aws, door: Door) -> None:
    """The context of a request is that of its decision, which recommendationId names."""
    reply = await aws.ask(
        "get_recommendations", campaignArn="c", userId=USER, context={"DEVICE": "mobile", "WEATHER": "rain"}, numResults=1
    )

    async def recorded() -> Any:
        decision = (await door.rest("GET", f"/v1/decisions/{reply['recommendationId']}")).json()
        return decision.get("context") == {"device": "mobile", "weather": "rain"}

    await eventually(recorded)


async def test_a_changed_filter_counts_at_once(aws: Aws, database: Database, shop: Demo) -> None:
    """A filter that is imported anew replaces the old one in a running server."""
    items = {one.item_id: one for one in shop.items}
    for category in ("venue", "cake"):
        async with database.tenant(SHOP) as connection:
            await put_filters(connection, {"changing": f'INCLUDE ItemID WHERE Items.CATEGORIES IN ("{category}")'})

        async def kept(category: str = category) -> bool:
            reply = await aws.ask("get_recommendations", campaignArn="c", userId=USER, filterArn="changing", numResults=3)
            return all(category in items[one].categories for one in ids(reply["itemList"]))

        await eventually(kept)


DEEP = '{"a": ' * 40 + "1" + "}" * 40


@pytest.mark.parametrize(
    ("operation", "arguments", "named"),
    [
        ("put_items", {"datasetArn": "d", "items": [{"itemId": "i", "properties": "no json"}]}, "items[0].properties"),
        ("put_items", {"datasetArn": "d", "items": [{"itemId": "i", "properties": '["a"]'}]}, "items[0].properties"),
        ("put_items", {"datasetArn": "d", "items": [{"itemId": "i", "properties": '{"price": "5"}'}]}, "items[0].properties"),
        ("put_items", {"datasetArn": "d", "items": [{"itemId": "a/b", "properties": "{}"}]}, "items[0].itemId"),
        ("put_users", {"datasetArn": "d", "users": [{"userId": "u", "properties": DEEP}]}, "users[0].properties"),
    ],
)
async def test_wrong_records_are_named(aws: Aws, operation: str, arguments: dict[str, Any], named: str) -> None:
    """Properties that are no JSON object, too deep or of the wrong type, and ids that are none, are refused by the record's place."""
    with pytest.raises(ClientError) as caught:
        await aws.put(operation, **arguments)
    assert caught.value.response["Error"]["Code"] == "InvalidInputException"
    assert caught.value.response["Error"]["Message"].startswith(f"{named}: ")


async def test_wrong_events_are_named_and_the_others_count(aws: Aws, door: Door) -> None:
    """An event without a usable type is refused before any is taken in; one that is far ahead of the clock is named, the others count."""
    user = f"aws-{uuid.uuid4().hex[:8]}"
    good = {"eventType": "click", "itemId": "x", "sentAt": 1_700_000_000}
    for bad, named, history in (
        ({**good, "eventType": "…"}, "eventList[1].eventType", 0),
        ({**good, "sentAt": 4_000_000_000}, "eventList[1]", 1),
    ):
        with pytest.raises(ClientError, match="InvalidInputException") as caught:
            await aws.put("put_events", trackingId="t", userId=user, sessionId="s", eventList=[good, bad])
        assert caught.value.response["Error"]["Message"].startswith(f"{named}: ")

        async def counted(wanted: int = history) -> bool:
            profile = (await door.rest("GET", f"/v1/users/{user}/profile")).json()
            return len(profile.get("history", [])) == wanted

        await eventually(counted)
