"""A stream of Aisle's own methods through its HTTP door."""

from __future__ import annotations

import asyncio
import json

import pytest
from websockets.asyncio.client import connect

from server.demo.generate import Demo
from tests.fixtures_server import Door


@pytest.mark.feature("in-process", "sse")
async def test_a_watched_page_comes_as_events(door: Door, shop: Demo) -> None:
    """WatchPersonalization over HTTP sends a page at once, and another when the user has done something."""
    user = shop.users[3].user_id
    headers = {"authorization": f"Bearer {door.key}", "accept": "text/event-stream"}
    async with door.http.stream("GET", f"/v1/users/{user}/personalization:watch?maxResults=3", headers=headers, timeout=60) as reply:
        assert (reply.status_code, reply.headers["content-type"]) == (200, "text/event-stream")
        lines = (json.loads(line.removeprefix("data: ")) async for line in reply.aiter_lines() if line.startswith("data: "))
        first = await anext(lines)
        assert first["cause"] == "INITIAL"
        assert first["page"]
        event = {"eventId": "watch-1", "user": f"users/{user}", "item": f"items/{shop.items[0].item_id}", "eventType": "view"}
        assert (await door.rest("POST", "/v1/events:ingest", json={"events": [event]})).status_code == 200
        assert (await asyncio.wait_for(anext(lines), 60))["cause"] == "USER_CHANGED"


@pytest.mark.feature("in-process", "websocket")
async def test_a_watched_page_comes_over_a_websocket(door: Door, shop: Demo) -> None:
    """The same over a WebSocket; without a key, or with a wrong one, its only frame is the error."""
    path = f"ws://{door.serving.http_address}/v1/users/{shop.users[4].user_id}/personalization:watch"
    async with connect(path, additional_headers={"authorization": f"Bearer {door.key}"}) as socket:
        assert json.loads(await asyncio.wait_for(socket.recv(), 60))["result"]["cause"] == "INITIAL"
    async with connect(path, additional_headers={"authorization": "Bearer nonsense"}) as socket:
        assert json.loads(await asyncio.wait_for(socket.recv(), 60))["error"]["code"] == 16
    refused = await door.rest("GET", path.removeprefix(f"ws://{door.serving.http_address}"), key="nonsense")
    assert refused.status_code == 401
