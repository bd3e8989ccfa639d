"""Streams over WebSockets: a real gRPC server, a real port, the client of the `websockets` library."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from server.gateway.policy import Policy
from tests.eventually import eventually
from tests.fixtures_streams import chat_gateway


async def frames_of(socket: Any) -> tuple[list[Any], int]:
    """Returns the frames up to the end, and the close code."""
    frames = [json.loads(frame) async for frame in until_closed(socket)]
    return frames, socket.close_code


def from_page(url: str, origin: str) -> connect:
    """Returns a connection as a page of `origin` would make it."""
    return connect(url, origin=origin)  # type: ignore[arg-type]  # a NewType of str


async def until_closed(socket: Any) -> AsyncIterator[str | bytes]:
    """Yields frames until the other side closes."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            yield await asyncio.wait_for(socket.recv(), 60)


@pytest.mark.feature("websocket")
async def test_both_sides_talk() -> None:
    """Each frame is answered while the stream is open; an empty frame ends the client's side, and the last replies follow."""
    async with chat_gateway() as (server, address), connect(f"ws://{address}/v1/rooms/1:talk") as socket:
        for number, text in enumerate(("a", "b"), 1):
            await socket.send(json.dumps({"text": text}))
            assert json.loads(await socket.recv()) == {"result": {"room": "rooms/1", "number": number, "text": text.upper()}}
        await socket.send("")
        assert await frames_of(socket) == ([{"result": {"text": "bye"}}], 1000)
        assert server.read == 2


@pytest.mark.feature("websocket")
async def test_a_client_streams_and_gets_one_reply() -> None:
    """A client's stream has one result; text and binary frames are alike."""
    async with chat_gateway() as (_, address), connect(f"ws://{address}/v1/rooms/1:collect") as socket:
        for frame in ('{"text": "a"}', b'{"text": "b"}', ""):
            await socket.send(frame)
        assert await frames_of(socket) == ([{"result": {"lines": 2, "room": "rooms/1", "texts": "a|b"}}], 1000)


@pytest.mark.feature("websocket")
async def test_a_server_streams_to_a_socket() -> None:
    """A server's stream takes its request from path and query, whatever HTTP method its rule names."""
    async with chat_gateway() as (_, address), connect(f"ws://{address}/v1/rooms/1:count?count=2") as socket:
        frames, code = await frames_of(socket)
        assert ([frame["result"]["number"] for frame in frames], code) == ([1, 2], 1000)
    async with chat_gateway() as (_, address), connect(f"ws://{address}/v1/rooms/1/file?count=2") as socket:
        assert [await socket.recv(), await socket.recv()] == [b"1;\n", b"2;\n"]


@pytest.mark.feature("stream-errors")
async def test_an_error_is_the_last_frame() -> None:
    """A failed call ends with its status and a close code that tells the gRPC code."""
    async with chat_gateway() as (_, address), connect(f"ws://{address}/v1/rooms/1:talk") as socket:
        await socket.send('{"text": "a"}')
        await socket.send('{"text": "fail"}')
        frames, code = await frames_of(socket)
        assert code == 4003
        assert frames[0]["result"]["text"] == "A"
        assert frames[1]["error"]["message"] == "text: was told to fail"


@pytest.mark.parametrize(
    ("frame", "words"), [('{"txet": 1}', "did you mean 'text'? (in frame 2)"), ("{", "malformed JSON"), (b"\xff", "UTF-8")]
)
@pytest.mark.feature("field-errors")
async def test_a_wrong_frame_ends_the_call(frame: str | bytes, words: str) -> None:
    """A frame that is no such message is an error that names the field and the frame, and the handler is cancelled."""
    async with chat_gateway() as (server, address), connect(f"ws://{address}/v1/rooms/1:talk") as socket:
        await socket.send('{"text": "deaf"}')

        async def is_deaf() -> bool:
            return server.read == 1

        await eventually(is_deaf)
        await socket.send(frame)
        frames, code = await frames_of(socket)
        assert code == 4003
        assert words in frames[-1]["error"]["message"]
        await asyncio.wait_for(server.cancelled.wait(), 60)


@pytest.mark.feature("cancel")
async def test_a_client_that_leaves_cancels_the_handler() -> None:
    """Closing the socket reaches the upstream's handler."""
    async with chat_gateway() as (server, address):

        async def is_deaf() -> bool:
            return server.read == 2

        async with connect(f"ws://{address}/v1/rooms/1:talk") as socket:
            await socket.send('{"text": "a"}')
            await socket.recv()
            await socket.send('{"text": "deaf"}')
            await eventually(is_deaf)
        await asyncio.wait_for(server.cancelled.wait(), 60)


@pytest.mark.feature("back-pressure")
async def test_a_handler_that_does_not_read_holds_the_client_back() -> None:
    """Requests that nobody takes fill the buffers of two connections and then stay with the client."""
    async with chat_gateway() as (server, address), connect(f"ws://{address}/v1/rooms/1:talk") as socket:
        await socket.send('{"text": "deaf"}')
        frame = json.dumps({"text": "x" * 100_000})
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 2000:  # 200 MB in all
                await asyncio.wait_for(socket.send(frame), 3)
                sent += 1
        assert server.read == 1
        assert sent * 100_000 < 60_000_000
        socket.transport.abort()


@pytest.mark.feature("websocket")
async def test_a_key_may_come_as_a_subprotocol() -> None:
    """A page, which cannot set headers, sends its key as the second of two subprotocols."""
    async with (
        chat_gateway() as (server, address),
        connect(f"ws://{address}/v1/rooms/1:count?count=1", subprotocols=["bearer", "k1"]) as socket,
    ):  # type: ignore[list-item]  # a NewType of str
        assert socket.subprotocol == "bearer"
        await socket.recv()
        assert server.metadata["authorization"] == "Bearer k1"


@pytest.mark.feature("cors")
async def test_pages_of_other_sites_need_a_key() -> None:
    """A page of another origin cannot use the visitor's machine as its way in, unless its origin was allowed."""
    async with chat_gateway() as (server, address):
        with pytest.raises(InvalidStatus) as refused:
            await from_page(f"ws://{address}/v1/rooms/1:talk", "http://evil.test")
        assert refused.value.response.status_code == 403
        assert json.loads(refused.value.response.body)["code"] == 7
        assert not server.open.is_set()
    policy = Policy(origins=frozenset({"http://shop.test"}))
    async with chat_gateway(policy) as (_, address), from_page(f"ws://{address}/v1/rooms/1:count?count=1", "http://shop.test") as socket:
        assert (await frames_of(socket))[1] == 1000


@pytest.mark.parametrize("path", ["/nope", "/v1/rooms/1:nope", "/"])
async def test_other_paths_have_no_socket(path: str) -> None:
    """A path without a streaming method answers the handshake with 404."""
    async with chat_gateway() as (_, address):
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://{address}{path}")
        assert refused.value.response.status_code == 404


@pytest.mark.feature("limits")
async def test_a_frame_over_the_limit_closes_the_socket() -> None:
    """A message larger than the limit is refused with 1009."""
    async with chat_gateway(max_bytes=50_000) as (_, address), connect(f"ws://{address}/v1/rooms/1:talk") as socket:
        await socket.send("x" * 60_000)
        assert (await frames_of(socket))[1] == 1009


async def test_a_stopping_server_closes_sockets() -> None:
    """A stop closes open sockets with 1012, for the client to connect to another server."""
    async with chat_gateway() as (_, address):
        socket = await connect(f"ws://{address}/v1/rooms/1:talk")
        await socket.send('{"text": "a"}')
        await socket.recv()
    assert (await frames_of(socket))[1] in {1012, 4014}  # what comes first, the stream's end or the connection's
