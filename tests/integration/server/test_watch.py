"""WatchPersonalization by gRPC: the page now, a new page after each event, and nothing left behind by those who go."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import grpc
import pytest
from prometheus_client import REGISTRY

from aisle.v1 import event_service_pb2 as events
from aisle.v1 import personalization_service_pb2 as pb
from aisle_client import AisleClient, InvalidArgumentError
from server.demo.generate import Demo
from server.domain import TenantId
from server.store import Database
from tests.eventually import eventually
from tests.fixtures_server import Door, new_key

_METHOD = "/aisle.v1.PersonalizationService/WatchPersonalization"
Watching = grpc.aio.UnaryStreamCall[pb.WatchPersonalizationRequest, pb.WatchPersonalizationResponse]


def _open(door: Door, user: str, *, key: str | None = None) -> Watching:
    method = door.channel.unary_stream(
        _METHOD,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=pb.WatchPersonalizationResponse.FromString,
    )
    used = door.key if key is None else key
    return method(pb.WatchPersonalizationRequest(user=user), metadata=(("authorization", f"Bearer {used}"),), timeout=120)


@asynccontextmanager
async def _watching(door: Door, user: str) -> AsyncIterator[Watching]:
    call = _open(door, user)
    try:
        yield call
    finally:
        call.cancel()


async def _does(door: Door, user: str, item: str) -> None:
    event = events.Event(event_id=uuid.uuid4().hex, user=user, item=item, event_type="click")
    reply = await door.call("EventService/IngestEvents", events.IngestEventsRequest(events=[event]), events.IngestEventsResponse)
    assert reply.accepted_count == 1


def _shown(state: pb.WatchPersonalizationResponse) -> list[str]:
    return [one.item for one in state.page.personalized_content.recommendations]


async def test_an_event_changes_the_watched_page(door: Door, shop: Demo) -> None:
    """The first page comes at once; after an event on one of its items a page without that item comes by itself."""
    user = f"users/watch-{uuid.uuid4().hex}"
    async with _watching(door, user) as states:
        first = await states.read()
        assert (first.cause, first.change_count) == (pb.WatchPersonalizationResponse.INITIAL, 0)
        item = _shown(first)[0]
        await _does(door, user, item)
        changed = await states.read()
    assert changed.cause == pb.WatchPersonalizationResponse.USER_CHANGED
    assert changed.change_count >= 1
    assert changed.change_time.seconds > 0
    assert _shown(changed)
    assert item not in _shown(changed)
    assert changed.page.decision != first.page.decision


async def test_the_client_library_watches(door: Door, shop: Demo) -> None:
    """`watch_personalization` yields the pages, ends the watch with the iteration, and raises the client's own errors."""
    async with AisleClient(door.serving.grpc_address, key=door.key) as client:
        async with aclosing(client.watch_personalization(f"watch-{uuid.uuid4().hex}", max_results=3)) as states:
            page = (await anext(states)).page
        assert len(page.personalized_content.recommendations) == 3
        with pytest.raises(InvalidArgumentError):
            await anext(client.watch_personalization("a/b"))


async def test_another_user_s_events_push_nothing(door: Door, shop: Demo) -> None:
    """Of two watches, only the one whose user did something gets a page."""
    quiet, busy = (f"users/watch-{uuid.uuid4().hex}" for _ in range(2))
    async with _watching(door, quiet) as still, _watching(door, busy) as moving:
        page = await still.read()
        await moving.read()
        await _does(door, busy, _shown(page)[0])
        assert (await moving.read()).cause == pb.WatchPersonalizationResponse.USER_CHANGED
        await _does(door, quiet, _shown(page)[0])
        assert (await still.read()).change_count == 1


async def test_a_cancelled_watch_leaves_nothing_behind(door: Door, shop: Demo) -> None:
    """When the client cancels, the server's watch ends too."""

    async def none_open() -> bool:
        return REGISTRY.get_sample_value("aisle_watches_open") == 0

    await eventually(none_open)
    async with _watching(door, f"users/watch-{uuid.uuid4().hex}") as states:
        await states.read()
        assert not await none_open()
    await eventually(none_open)


async def test_a_bad_request_and_a_key_without_scope_are_refused(door: Door, database: Database, tenant_id: TenantId, shop: Demo) -> None:
    """A malformed user is INVALID_ARGUMENT and names the field; a key without the scope `recommend` is PERMISSION_DENIED."""
    with pytest.raises(grpc.aio.AioRpcError) as malformed:
        await _open(door, "nobody").read()
    assert malformed.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "user" in str(malformed.value.details())
    with pytest.raises(grpc.aio.AioRpcError) as forbidden:
        await _open(door, "users/a", key=await new_key(database, tenant_id, "events")).read()
    assert forbidden.value.code() == grpc.StatusCode.PERMISSION_DENIED
