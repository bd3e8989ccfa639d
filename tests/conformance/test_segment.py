"""Segment's own library against the running server."""

from __future__ import annotations

import asyncio
import gzip
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from segment.analytics.client import Client

from server.store import Database
from tests.eventually import eventually
from tests.fixtures_server import SHOP, Door, new_key


def client(door: Door, **options: Any) -> Client:
    """Returns a client as its users make it, but for the address; it sends at once and raises what goes wrong."""
    return Client(door.key, host=f"http://{door.serving.http_address}/compat/segment", sync_mode=True, **options)


async def send(call: Callable[..., Any], *args: Any, **arguments: Any) -> None:
    """Sends one message; the library blocks, so a thread runs it."""
    await asyncio.to_thread(call, *args, **arguments)


def someone() -> str:
    """Returns an id that no other test uses."""
    return f"seg-{uuid.uuid4().hex[:10]}"


async def profile_of(door: Door, user: str) -> dict[str, Any]:
    """Returns what is known of a user."""
    content: dict[str, Any] = (await door.rest("GET", f"/v1/users/{user}/profile")).json()
    return content


async def history_is(door: Door, user: str, wanted: list[tuple[str, str]]) -> None:
    """Waits until a user's history is this."""

    async def there() -> bool:
        return [(one["item"], one["eventType"]) for one in (await profile_of(door, user)).get("history", [])] == wanted

    await eventually(there)


@pytest.mark.parametrize("compressed", [False, True])
async def test_tracked_events_become_history(door: Door, compressed: bool) -> None:  # noqa: FBT001
    """Tracked events name their item in any of the usual properties, compressed or not, and an order each of its products."""
    user, sender = someone(), client(door, gzip=compressed)
    start = datetime.now(UTC) - timedelta(minutes=10)
    await send(sender.track, user, "Product Viewed", {"product_id": "a"}, timestamp=start)
    await send(sender.track, user, "Added to Moodboard", {"sku": "b"}, timestamp=start + timedelta(minutes=1))
    products = {"products": [{"product_id": "a", "price": 3}, {"product_id": "b"}], "revenue": 12.5}
    await send(sender.track, user, "Order Completed", products, timestamp=start + timedelta(minutes=2))
    wanted = [("items/a", "view"), ("items/b", "added_to_moodboard"), ("items/a", "purchase"), ("items/b", "purchase")]
    await history_is(door, user, wanted)
    assert [one["value"] for one in (await profile_of(door, user))["history"]] == [1, 1, 12.5, 12.5]


async def test_a_message_counts_once(door: Door) -> None:
    """The same messageId, sent twice, counts once."""
    user, sender = someone(), client(door)
    for _ in range(2):
        await send(sender.track, user, "Product Clicked", {"product_id": "a"}, message_id=f"m-{user}")
    await send(sender.track, user, "Product Clicked", {"product_id": "b"})
    await history_is(door, user, [("items/a", "click"), ("items/b", "click")])


async def test_identify_adds_traits(door: Door) -> None:
    """Traits are added to those that are known, the newer of one name stays; locale and time zone come from the context."""
    user, sender = someone(), client(door)
    await send(sender.identify, user, {"plan": "free", "city": "Porto"}, context={"locale": "pt-PT", "timezone": "Europe/Lisbon"})
    await send(sender.identify, user, {"plan": "paid"})
    await send(sender.group, user, "household-7", {"size": 4})
    profile = await profile_of(door, user)
    assert profile["traits"] == {"plan": "paid", "city": "Porto", "group_id": "household-7", "group": {"size": 4}}
    assert (profile["locale"], profile["timeZone"]) == ("pt-PT", "Europe/Lisbon")


async def test_what_was_anonymous_becomes_the_users(door: Door) -> None:
    """History and traits of an anonymous id are the user's once both are identified, and later anonymous events are, too."""
    user, anonymous, sender = someone(), someone(), client(door)
    start = datetime.now(UTC) - timedelta(minutes=10)
    await send(sender.track, anonymous_id=anonymous, event="Product Viewed", properties={"product_id": "a"}, timestamp=start)
    await send(sender.identify, anonymous_id=anonymous, traits={"source": "ad", "plan": "none"})
    await history_is(door, anonymous, [("items/a", "view")])
    await send(sender.track, user, "Product Viewed", {"product_id": "b"}, timestamp=start + timedelta(minutes=1))
    await send(sender.identify, user, {"plan": "free"}, anonymous_id=anonymous)
    await history_is(door, user, [("items/a", "view"), ("items/b", "view")])
    later = start + timedelta(minutes=2)
    await send(sender.track, anonymous_id=anonymous, event="Product Clicked", properties={"product_id": "c"}, timestamp=later)
    await history_is(door, user, [("items/a", "view"), ("items/b", "view"), ("items/c", "click")])
    profile = await profile_of(door, user)
    assert profile["traits"] == {"source": "ad", "plan": "free"}
    assert profile["engagementHistory"]["view"] == "2"
    assert (await door.rest("GET", f"/v1/users/{anonymous}/profile")).status_code == 404


async def test_alias_joins_two_users(door: Door) -> None:
    """Alias gives the previous id's history to the user, and what was joined to the previous id with it."""
    old, new, sender = someone(), someone(), client(door)
    await send(sender.track, old, "Product Viewed", {"product_id": "a"})
    await history_is(door, old, [("items/a", "view")])
    await send(sender.alias, old, new)
    await history_is(door, new, [("items/a", "view")])


async def test_pages_and_screens_are_events(door: Door) -> None:
    """Pages and screens count by type, and are history where they name an item."""
    user, sender = someone(), client(door)
    await send(sender.page, user, "Venues", "Barn", {"product_id": "barn-1"})
    await send(sender.screen, user, "Home")
    await history_is(door, user, [("items/barn-1", "page")])

    async def counted() -> bool:
        return {"page": "1", "screen": "1"}.items() <= (await profile_of(door, user))["engagementHistory"].items()

    await eventually(counted)


async def post(door: Door, path: str, body: Any, **headers: str) -> Any:
    """Returns the raw reply to a body, for what the library would not send."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return await door.http.post(f"/compat/segment/v1{path}", content=content, headers=sent)


async def test_a_wrong_clock_is_repaired(door: Door) -> None:
    """An event's time is the server's minus the span between the client's two readings of its own clock, however wrong that is."""
    user = someone()
    wrong = datetime(2031, 5, 1, tzinfo=UTC)
    message = {
        "type": "track",
        "userId": user,
        "event": "view",
        "properties": {"product_id": "a"},
        "timestamp": (wrong - timedelta(hours=3)).isoformat(),
    }
    before = datetime.now(UTC)
    reply = await post(door, "/batch", {"batch": [message], "sentAt": wrong.isoformat(), "writeKey": door.key})
    assert reply.json()["success"] is True
    await history_is(door, user, [("items/a", "view")])
    happened = datetime.fromisoformat((await profile_of(door, user))["history"][0]["occurTime"])
    assert before - timedelta(hours=3, seconds=1) <= happened <= datetime.now(UTC) - timedelta(hours=3)


async def test_refused_messages_are_listed_and_the_rest_counts(door: Door) -> None:
    """Of a batch the wrong messages are listed with their reason, under 200, and the others are taken in."""
    user = someone()
    good = {"type": "track", "userId": user, "event": "view", "properties": {"product_id": "a"}}
    deep: dict[str, Any] = {}
    for _ in range(40):
        deep = {"a": deep}
    bad = [
        {"type": "track", "event": "view"},
        {"type": "dance", "userId": user},
        {"type": "track", "userId": "a/b", "event": "x"},
        {"type": "track", "userId": user, "event": "x", "properties": {"text": "x" * 33_000}},
        {"type": "track", "userId": user, "event": "x", "properties": deep},
    ]
    reply = await post(door, "/batch", {"batch": [*bad, good], "writeKey": door.key})
    assert reply.status_code == 200
    assert [(one["index"], one["message"].partition(":")[0]) for one in reply.json()["rejected"]] == [
        (0, "userId"),
        (1, "type"),
        (2, "userId"),
        (3, "message"),
        (4, "message"),
    ]
    await history_is(door, user, [("items/a", "view")])


async def test_requests_are_refused_for_their_size_form_and_key(door: Door, database: Database) -> None:
    """What is no JSON, too large once unpacked, or of an unknown key is refused whole, in Segment's form."""
    bomb = gzip.compress(b" " * 50_000_000)
    key = await new_key(database, SHOP, "events")
    cases = [
        (b"{", {"authorization": f"Bearer {door.key}"}, 400),
        (b"[]", {"authorization": f"Bearer {door.key}"}, 400),
        (bomb, {"authorization": f"Bearer {door.key}", "content_encoding": "gzip"}, 413),
        (b"\x1f\x8b broken", {"authorization": f"Bearer {door.key}", "content_encoding": "gzip"}, 400),
        (json.dumps({"batch": [{"type": "track", "userId": "u", "event": "x"}], "writeKey": f"aisle_shop_{'a' * 40}"}).encode(), {}, 401),
    ]
    for body, headers, status in cases:
        reply = await post(door, "/batch", body, **headers)
        assert (reply.status_code, reply.json()["success"]) == (status, False)
    lacking = await post(door, "/identify", {"userId": "u", "traits": {"a": 1}}, authorization=f"Bearer {key}")
    assert [one["reason"] for one in lacking.json()["rejected"]] == ["PERMISSION_DENIED"]


async def test_single_messages_have_paths_of_their_own(door: Door) -> None:
    """Each type has its path; the write key comes as the user of HTTP Basic."""
    user = someone()
    basic = {"auth": (door.key, "")}
    reply = await door.http.post("/compat/segment/v1/track", json={"userId": user, "event": "view", "properties": {"sku": "a"}}, **basic)
    assert reply.json()["success"] is True
    assert (await door.http.post("/compat/segment/v1/identify", json={"userId": user, "traits": {"a": 1}}, **basic)).status_code == 200
    await history_is(door, user, [("items/a", "view")])
