"""Item-to-item counts that change with what happens, on a whole server."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import httpx
import numpy as np

from aisle.v1 import event_service_pb2 as events
from aisle.v1 import item_service_pb2 as items
from aisle.v1 import recommendation_service_pb2 as pb
from server.app import Endpoints, serving
from server.embedded import Parts
from server.inference import BuiltEncoder
from tests.eventually import eventually
from tests.fixtures_server import Door, server_settings


@asynccontextmanager
async def _another_server(door: Door, parts: Parts, encoder: BuiltEncoder, folder: Path) -> AsyncIterator[Door]:
    """Yields a server that was just started, on the same database and Redis."""
    endpoints = Endpoints(parts.database_url, parts.redis_url, "")
    async with (
        serving(server_settings(folder, runtime="local"), endpoints, encoder) as doors,
        grpc.aio.insecure_channel(doors.grpc_address) as channel,
        httpx.AsyncClient(base_url=f"http://{doors.http_address}", timeout=30) as http,
    ):
        yield Door(doors, channel, http, door.key)


async def _create(door: Door, item_id: str, title: str) -> None:
    request = items.CreateItemRequest(item_id=item_id, item=items.Item(title=title))
    await door.call("ItemService/CreateItem", request, items.Item)


def _just_now() -> datetime:
    """Returns a second ago: what is dated before the last event that the shop was trained on would wait for the next training."""
    return datetime.now(UTC) - timedelta(seconds=1)


async def _ingest(door: Door, *steps: tuple[str, str]) -> str:
    """Sends events of users on items, a millisecond after each other, and returns their token."""
    start = _just_now()
    made = [events.Event(user=f"users/{user}", item=f"items/{item}", event_type="click") for user, item in steps]
    for step, one in enumerate(made):
        one.occur_time.FromDatetime(start + timedelta(milliseconds=step))
    reply = await door.call("EventService/IngestEvents", events.IngestEventsRequest(events=made), events.IngestEventsResponse)
    return reply.consistency_token


async def _item_to_item(door: Door, user: str, item: str, token: str = "") -> float:
    """Returns what item to item contributes to the item in the user's list; 0 if it is not there or for other reasons."""
    request = pb.RecommendItemsRequest(user=f"users/{user}", max_results=20, explain=True, consistency_token=token)
    reply = await door.call("RecommendationService/RecommendItems", request, pb.RecommendItemsResponse)
    found = {one.item: {reason.source: reason.contribution for reason in one.reasons} for one in reply.items}
    return found.get(f"items/{item}", {}).get("item_to_item", 0.0)


async def _fresh(door: Door, x: str, y: str) -> float:
    """Returns what item to item says of y to a user nobody has met, who touches x."""
    user = f"fresh-{uuid.uuid4().hex[:8]}"
    return await _item_to_item(door, user, y, await _ingest(door, (user, x)))


async def test_what_users_went_on_to_is_recommended_without_training(
    door: Door, parts: Parts, encoder: BuiltEncoder, tmp_path: Path
) -> None:
    """Once users went from x to y, both new, who touches x is shown y by item to item, on every replica, also one that starts later."""
    run = uuid.uuid4().hex[:8]
    x, y = f"x-{run}", f"y-{run}"
    async with _another_server(door, parts, encoder, tmp_path / "replica") as replica:
        await _item_to_item(replica, f"warm-{run}", y)  # its catalogue is loaded before anything happens
        await _create(door, x, "Velvet slippers")
        await _create(door, y, "Granite quarry")
        assert not await _fresh(door, x, y)
        for number in range(5):
            user = f"u{number}-{run}"
            await _ingest(door, (user, x), (user, y))
        for running in (door, replica):
            await eventually(lambda running=running: _fresh(running, x, y))
        async with _another_server(door, parts, encoder, tmp_path / "restarted") as restarted:
            user = f"late-{run}"
            token = await _ingest(restarted, (user, x))

            async def agree() -> bool:
                found = [await _item_to_item(server, user, y, token) for server in (door, replica, restarted)]
                return found[0] > 0 and max(found) - min(found) < 1e-6

            await eventually(agree)


async def test_a_live_count_is_that_of_a_fresh_start(door: Door, parts: Parts, encoder: BuiltEncoder, tmp_path: Path) -> None:
    """Events of many users, in batches and out of order, with hidden and unknown items among them, count the same told and read."""
    run = uuid.uuid4().hex[:8]
    made = [f"n{number}-{run}" for number in range(6)]
    for number, item_id in enumerate(made):
        await _create(door, item_id, f"Thing {number}")
    random = np.random.default_rng(0)
    start = _just_now()
    for _ in range(12):
        batch = []
        for _ in range(15):
            item = str(random.choice([*made, f"nowhere-{run}"]))
            one = events.Event(
                user=f"users/m{random.integers(8)}-{run}", item=f"items/{item}", event_type=str(random.choice(["click", "hide"]))
            )
            one.occur_time.FromDatetime(start + timedelta(milliseconds=int(random.integers(1000))))
            batch.append(one)
        await door.call("EventService/IngestEvents", events.IngestEventsRequest(events=batch), events.IngestEventsResponse)

    probes = {item: (f"probe-{item}", await _ingest(door, (f"probe-{item}", item))) for item in made}
    async with _another_server(door, parts, encoder, tmp_path / "restarted") as restarted:

        async def matrix(server: Door) -> list[float]:
            return [await _item_to_item(server, user, item, token) for user, token in probes.values() for item in made]

        async def agree() -> bool:
            told, read = await matrix(door), await matrix(restarted)
            return np.count_nonzero(told) > len(made) and np.allclose(told, read, atol=1e-6)

        await eventually(agree)
