"""The page at `/`, over a real chain whose servicers keep everything in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from google.protobuf.message import Message

from aisle.v1 import event_service_pb2, item_service_pb2, personalization_service_pb2, recommendation_service_pb2
from server.errors import NotFoundError, UnavailableError
from server.gateway.pages import Moved, Pages, moves
from server.interceptors.call import Call
from server.interceptors.chain import InProcessDispatcher
from server.interceptors.status import convert_errors

_NAME = "Ada <b>and</b> Tom"


class _World:
    """Four items; what a user acted on leaves the list. Its methods are those of four services."""

    def __init__(self) -> None:
        self.events: list[event_service_pb2.Event] = []
        self.calls: list[Call] = []
        self.down = False

    async def RecommendItems(self, call: Call, request: recommendation_service_pb2.RecommendItemsRequest) -> Message:  # noqa: N802
        self.calls.append(call)
        if self.down:
            raise UnavailableError("catalogue", "is being loaded; try again in a minute")
        seen = {event.item for event in self.events}
        reason = recommendation_service_pb2.Reason(source="semantic", contribution=0.5, text="reads like what they saved")
        items = [
            recommendation_service_pb2.RankedItem(item=f"items/{name}", score=1, reasons=[reason])
            for name in "abcd"
            if f"items/{name}" not in seen
        ]
        return recommendation_service_pb2.RecommendItemsResponse(
            items=items, rung=recommendation_service_pb2.Ladder.FULL, bundle="bundles/b-1", runtime="local", consistent=True
        )

    async def GetUserProfile(self, call: Call, request: personalization_service_pb2.GetUserProfileRequest) -> Message:  # noqa: N802
        if "couple-000001" not in request.name:
            raise NotFoundError(request.name)
        profile = personalization_service_pb2.UserProfile(name=request.name)
        profile.traits.update({"names": _NAME, "city": "Porto", "style": "rustic", "guests": 80})
        return profile

    async def GetItem(self, call: Call, request: item_service_pb2.GetItemRequest) -> Message:  # noqa: N802
        return item_service_pb2.Item(name=request.name, title=f"Barn {request.name[-1]}", categories=["venue"], price=1200, currency="EUR")

    async def IngestEvents(self, call: Call, request: event_service_pb2.IngestEventsRequest) -> Message:  # noqa: N802
        self.events.extend(request.events)
        return event_service_pb2.IngestEventsResponse(accepted_count=len(request.events), consistency_token="t-1")

    async def _absent(self, call: Call, request: Message) -> Message:
        raise NotFoundError("nothing")

    def __getattr__(self, name: str) -> object:
        """Answers the services' other methods, which the page must do without."""
        return self._absent


@pytest.fixture
def world() -> _World:
    """A world in which nothing was done yet."""
    return _World()


@pytest.fixture
async def browser(world: _World) -> AsyncIterator[httpx.AsyncClient]:
    """A visitor on this machine."""
    modules = (event_service_pb2, item_service_pb2, personalization_service_pb2, recommendation_service_pb2)
    services = {service: world for module in modules for service in module.DESCRIPTOR.services_by_name.values()}
    app = Pages(InProcessDispatcher(services, [convert_errors])).app()
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://aisle.test") as client:
        yield client


async def test_a_newcomer_sees_the_couples_to_pick_from(browser: httpx.AsyncClient) -> None:
    """Users of the demo tenant that exist are offered by name, as links."""
    page = (await browser.get("/")).text
    assert 'href="/?user=couple-000001"' in page
    assert "couple-000002" not in page


async def test_a_picked_couple_shows_profile_items_and_reasons(browser: httpx.AsyncClient) -> None:
    """The page of a user has traits, titles, prices, reasons in words, and how the list was made."""
    page = (await browser.get("/", params={"user": "couple-000001"})).text
    for text in ("Barn a", "1,200 EUR", "reads like what they saved", "rung FULL", "bundles/b-1", "runtime local", "guests"):
        assert text in page


async def test_what_callers_wrote_is_escaped(browser: httpx.AsyncClient) -> None:
    """Markup in a trait or in the address is shown as text, and the page's policy allows no script."""
    reply = await browser.get("/", params={"user": "couple-000001", "did": "save", "item": "items/<script>"})
    assert "Ada &lt;b&gt;and&lt;/b&gt; Tom" in reply.text
    assert "<script" not in (await browser.get("/", params={"user": "<script>alert(1)</script>"})).text
    assert "default-src 'none'" in reply.headers["content-security-policy"]


async def test_acting_sends_one_event_and_shows_what_moved(browser: httpx.AsyncClient, world: _World) -> None:
    """A button's form is answered by a redirect to the page that carries the token; reloading it sends nothing again."""
    form = {"user": "couple-000001", "item": "items/b", "did": "save", "before": "items/a,items/b,items/c,items/d"}
    reply = await browser.post("/act", data=form)
    assert reply.status_code == 303
    for _ in range(2):
        page = (await browser.get(reply.headers["location"])).text
    assert [(event.user, event.item, event.event_type) for event in world.events] == [("users/couple-000001", "items/b", "save")]
    assert "saved Barn b" in page
    assert "up from 3" in page
    assert "1 of the earlier items left it" in page


@pytest.mark.parametrize("headers", [{"sec-fetch-site": "cross-site"}, {"origin": "http://evil.test"}, {"origin": "null"}])
async def test_forms_of_other_sites_do_nothing(browser: httpx.AsyncClient, world: _World, headers: dict[str, str]) -> None:
    """A form that another site sends is refused, and no event is written."""
    reply = await browser.post("/act", data={"user": "u", "item": "items/a", "did": "save"}, headers=headers)
    assert reply.status_code == 403
    assert not world.events


@pytest.mark.parametrize(
    "body", [b"", b"user=u&item=items/a&did=explode", b"\xff\xfe=1", b"x=" + b"y" * 20_000, b"&".join(b"a%d=1" % n for n in range(50))]
)
async def test_broken_forms_are_told_what_a_form_needs(browser: httpx.AsyncClient, world: _World, body: bytes) -> None:
    """Missing or unknown values, bytes that are no text, and far too much of it are answered 400."""
    reply = await browser.post("/act", content=body, headers={"content-type": "application/x-www-form-urlencoded"})
    assert reply.status_code == 400
    assert "The form needs user, item and did" in reply.text
    assert not world.events


async def test_a_failing_server_says_so_on_the_page(browser: httpx.AsyncClient, world: _World) -> None:
    """Where no list can be had, the page carries the API's words and its status."""
    world.down = True
    reply = await browser.get("/", params={"user": "couple-000001"})
    assert reply.status_code == 503
    assert "is being loaded" in reply.text


async def test_the_pages_calls_carry_the_visitors_headers_and_place(browser: httpx.AsyncClient, world: _World) -> None:
    """A key that the visitor's proxy adds reaches the chain, and so does whether the visitor is on this machine."""
    await browser.get("/", params={"user": "couple-000001"}, headers={"Authorization": "Bearer k"})
    assert world.calls[0].metadata["authorization"] == "Bearer k"
    assert world.calls[0].loopback


def test_moves_are_told_from_two_lists() -> None:
    """New, risen, sunk and unmoved items are told apart; without an earlier list nothing moved."""
    assert moves(["a", "b", "c"], ["b", "d", "c"]) == [Moved(2, 1), Moved(None, 2), Moved(3, 3)]
    assert [move.text for move in moves(["a", "b", "c"], ["b", "d", "c"])] == ["up from 2", "new", ""]
    assert [move.text for move in moves([], ["a"])] == [""]
