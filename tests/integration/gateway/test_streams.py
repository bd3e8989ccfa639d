"""Streams over HTTP: a real gRPC server, a real port, clients that read slowly or leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.fixtures_streams import ChatServer, chat_gateway

Chat = tuple[ChatServer, httpx.AsyncClient]


@pytest.fixture
async def chat() -> AsyncIterator[Chat]:
    """A chat server, and a client of the gateway before it that sends heartbeats often."""
    async with chat_gateway(idle_s=0.3) as (server, address), httpx.AsyncClient(base_url=f"http://{address}", timeout=60) as client:
        yield server, client


def lines_of(reply: httpx.Response) -> list[Any]:
    """Returns the values of an NDJSON reply."""
    return [json.loads(one) for one in reply.text.splitlines()]


@pytest.mark.parametrize("accept", ["", "*/*", "application/x-ndjson", "application/jsonl", "text/html, application/x-ndjson;q=0.9"])
@pytest.mark.feature("ndjson", "flush")
async def test_a_stream_comes_as_lines(chat: Chat, accept: str) -> None:
    """A server's stream is NDJSON by default, framed as grpc-gateway frames it, and no proxy may buffer or store it."""
    reply = await chat[1].get("/v1/rooms/1:count?count=2", headers={"accept": accept} if accept else {})
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/x-ndjson"
    assert (reply.headers["x-accel-buffering"], reply.headers["cache-control"]) == ("no", "no-store")
    assert reply.headers["grpc-metadata-x-room"] == "rooms/1"
    assert lines_of(reply) == [{"result": {"room": "rooms/1", "number": 1}}, {"result": {"room": "rooms/1", "number": 2}}]


@pytest.mark.feature("json-array")
async def test_a_stream_comes_as_a_json_array(chat: Chat) -> None:
    """`Accept: application/json` gives one array of the messages; of none, an empty one."""
    headers = {"accept": "application/json"}
    assert (await chat[1].get("/v1/rooms/1:count?count=2", headers=headers)).json() == [
        {"room": "rooms/1", "number": 1},
        {"room": "rooms/1", "number": 2},
    ]
    failed = await chat[1].get("/v1/rooms/1:count?count=3&failAfter=1", headers=headers)
    assert failed.status_code == 200
    assert failed.json()[0] == {"room": "rooms/1", "number": 1}
    assert failed.json()[1]["error"]["code"] == 3


@pytest.mark.feature("sse")
async def test_a_stream_comes_as_events(chat: Chat) -> None:
    """`Accept: text/event-stream` gives events with ids that go on from the last one seen, a retry time, and an end."""
    reply = await chat[1].get("/v1/rooms/1:count?count=2", headers={"accept": "text/event-stream", "last-event-id": "7"})
    assert reply.headers["content-type"] == "text/event-stream"
    assert reply.text == (
        "retry: 2000\n\n"
        'id: 8\ndata: {"room":"rooms/1","number":1}\n\n'
        'id: 9\ndata: {"room":"rooms/1","number":2}\n\n'
        "event: end\ndata: {}\n\n"
    )
    assert chat[0].metadata["last-event-id"] == "7"


@pytest.mark.feature("sse")
async def test_an_idle_stream_of_events_has_a_heartbeat(chat: Chat) -> None:
    """While nothing comes, headers go out and comments follow, so that proxies and clients see that the stream lives."""
    async with chat[1].stream("GET", "/v1/rooms/1:count?silentAfter=-1", headers={"accept": "text/event-stream"}) as reply:
        assert reply.status_code == 200
        received = ""
        async for part in reply.aiter_text():
            received += part
            if received.count(": idle\n\n") == 3:
                break
    assert received.startswith("retry: 2000\n\n: idle\n\n")


@pytest.mark.feature("flush")
async def test_each_message_is_flushed(chat: Chat) -> None:
    """A message reaches the reader while the stream is still open and silent."""
    async with chat[1].stream("GET", "/v1/rooms/1:count?silentAfter=2") as reply:
        lines = reply.aiter_lines()
        assert [json.loads(await anext(lines))["result"]["number"] for _ in range(2)] == [1, 2]
        assert not chat[0].cancelled.is_set()


@pytest.mark.feature("stream-errors")
async def test_an_error_is_the_last_frame(chat: Chat) -> None:
    """A stream that fails ends with the status, details and all; one that fails at once has the status of HTTP."""
    reply = await chat[1].get("/v1/rooms/1:count?count=3&failAfter=1")
    assert reply.status_code == 200
    assert lines_of(reply)[0] == {"result": {"room": "rooms/1", "number": 1}}
    error = lines_of(reply)[1]["error"]
    assert (error["code"], error["message"]) == (3, "count: was told to fail")
    assert error["details"][1]["fieldViolations"][0]["field"] == "count"
    events = (await chat[1].get("/v1/rooms/1:count?failAfter=1", headers={"accept": "text/event-stream"})).text
    assert events.rstrip().split("\n\n")[-1].startswith('event: error\ndata: {"code":3,')
    early = await chat[1].get("/v1/rooms/1:count?failAfter=-1")
    assert (early.status_code, early.json()["code"]) == (400, 3)


@pytest.mark.feature("json-array")
async def test_a_stream_that_cannot_be_written_is_406(chat: Chat) -> None:
    """A caller that takes none of the framings is told which there are."""
    reply = await chat[1].get("/v1/rooms/1:count", headers={"accept": "image/png, text/event-stream;q=0"})
    assert reply.status_code == 406
    assert "application/x-ndjson, text/event-stream, application/json" in reply.json()["message"]


@pytest.mark.feature("response-body", "http-body")
async def test_response_body_and_raw_bodies_are_streamed(chat: Chat) -> None:
    """`response_body` narrows each message, and `google.api.HttpBody` messages are the bytes that they hold."""
    assert lines_of(await chat[1].get("/v1/rooms/1/texts?count=2&size=3")) == [{"result": "xxx"}, {"result": "xxx"}]
    file = await chat[1].get("/v1/rooms/1/file?count=3")
    assert (file.headers["content-type"], file.text) == ("text/csv", "1;\n2;\n3;\n")
    with pytest.raises(httpx.RemoteProtocolError):  # the one way to say that the rest is missing
        await chat[1].get("/v1/rooms/1/file?failAfter=2")


async def test_head_of_a_stream_opens_none(chat: Chat) -> None:
    """HEAD tells the type and calls nobody."""
    head = await chat[1].head("/v1/rooms/1:count", headers={"accept": "text/event-stream"})
    assert (head.status_code, head.headers["content-type"], head.content) == (200, "text/event-stream", b"")
    assert not chat[0].open.is_set()


@pytest.mark.feature("cancel")
async def test_a_reader_that_leaves_cancels_the_handler(chat: Chat) -> None:
    """Closing the connection reaches the upstream's handler, whether it is writing or waiting."""
    for query in ("size=10", "silentAfter=1"):
        chat[0].cancelled.clear()
        async with chat[1].stream("GET", f"/v1/rooms/1:count?{query}") as reply:
            await anext(reply.aiter_lines())
        await asyncio.wait_for(chat[0].cancelled.wait(), 60)


@pytest.mark.feature("back-pressure")
async def test_a_slow_reader_holds_the_handler_back() -> None:
    """A reader that stops reading stops the handler: what waits is bounded by the buffers of two connections, not by the stream."""
    size = 100_000
    async with chat_gateway() as (server, address):
        host, port = address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=65536)
        writer.write(f"GET /v1/rooms/1:count?count=4000&size={size} HTTP/1.1\r\nhost: x\r\n\r\n".encode())  # 400 MB in all
        await reader.readline()
        seen, still = 0, 0
        while still < 3:  # until it stands still
            await asyncio.sleep(0.7)
            still = still + 1 if seen == server.written > 0 else 0
            seen = server.written
        assert seen * size < 100_000_000
        taken = 0
        while taken < 120_000_000:
            taken += len(await reader.read(1 << 20))
        assert server.written > seen  # and it goes on as the reader does
        writer.close()
        await asyncio.wait_for(server.cancelled.wait(), 60)


@pytest.mark.feature("deadline")
async def test_the_deadline_ends_a_stream_and_reaches_the_handler(chat: Chat) -> None:
    """`grpc-timeout` is the whole stream's time; without it a stream has no end."""
    reply = await chat[1].get("/v1/rooms/1:count?silentAfter=1", headers={"grpc-timeout": "1500m"})
    assert [set(one) for one in lines_of(reply)] == [{"result"}, {"error"}]
    assert lines_of(reply)[1]["error"]["code"] == 4
    assert chat[0].remaining_s is not None
    assert chat[0].remaining_s < 1.6  # gRPC rounds
    async with chat[1].stream("GET", "/v1/rooms/1:count?silentAfter=1") as endless:
        await anext(endless.aiter_lines())
    assert chat[0].remaining_s is None


@pytest.mark.feature("stream-errors")
async def test_a_stopping_server_ends_streams() -> None:
    """A stop does not wait for a stream to end: it ends with UNAVAILABLE as its last frame."""
    async with httpx.AsyncClient(timeout=60) as client:
        received: list[Any] = []

        async def read(address: str, begun: asyncio.Event) -> None:
            async with client.stream("GET", f"http://{address}/v1/rooms/1:count?silentAfter=1") as reply:
                async for one in reply.aiter_lines():
                    received.append(json.loads(one))
                    begun.set()

        async with chat_gateway() as (_, address):
            begun = asyncio.Event()
            reading = asyncio.create_task(read(address, begun))
            await asyncio.wait_for(begun.wait(), 60)
        await asyncio.wait_for(reading, 60)
    assert received[-1]["error"]["code"] == 14


@pytest.mark.feature("limits")
async def test_a_message_over_the_limit_ends_the_stream() -> None:
    """A message larger than the limit is an error in its place."""
    async with chat_gateway(max_bytes=50_000) as (_, address), httpx.AsyncClient() as client:
        reply = await client.get(f"http://{address}/v1/rooms/1:count?count=1&size=49970")
        assert (reply.status_code, reply.json()["code"]) == (400, 11)
        assert "more than 50000; ask for less at once" in reply.json()["message"]


async def _slowly(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
        await asyncio.sleep(0.01)


@pytest.mark.feature("client-streams")
async def test_a_client_streams_lines(chat: Chat) -> None:
    """A client's stream is NDJSON in the body, cut anywhere; the path's variables are in each message."""
    body = _slowly(b'{"text": "a"}\n\n{"te', b'xt": "b"}\n', b'{"text": "c"}')
    reply = await chat[1].post("/v1/rooms/1:collect", content=body, headers={"content-type": "application/x-ndjson"})
    assert reply.json() == {"lines": 3, "room": "rooms/1", "texts": "a|b|c"}


@pytest.mark.feature("client-streams")
async def test_a_wrong_line_ends_the_call(chat: Chat) -> None:
    """A line that is no such message is a 400 that says which, and the handler's requests end there."""

    async def body() -> AsyncIterator[bytes]:
        yield b'{"text": "a"}\n'
        await chat[0].open.wait()
        yield b'{"txet": "b"}\n{"text": "c"}\n'

    reply = await chat[1].post("/v1/rooms/1:collect", content=body(), headers={"content-type": "application/x-ndjson"})
    assert reply.status_code == 400
    assert reply.json()["message"] == "txet: is not a field of chat.v1.Line; did you mean 'text'? (in message 2)"
    await asyncio.wait_for(chat[0].ended.wait(), 60)


@pytest.mark.parametrize(
    "headers", [{"content-type": "application/json"}, {}, {"content-type": "application/x-ndjson", "content-encoding": "gzip"}]
)
async def test_a_stream_must_say_that_it_is_lines(chat: Chat, headers: dict[str, str]) -> None:
    """A body for a streaming method that is not plain NDJSON is a 415 that names the ways."""
    reply = await chat[1].post("/v1/rooms/1:collect", content=b'{"text": "a"}', headers=headers)
    assert reply.status_code == 415


@pytest.mark.feature("limits")
async def test_a_line_over_the_limit_is_413() -> None:
    """A line without an end does not fill memory."""
    async with chat_gateway(max_bytes=50_000) as (_, address), httpx.AsyncClient() as client:
        body = _slowly(*[b"x" * 20_000] * 5)
        reply = await client.post(f"http://{address}/v1/rooms/1:collect", content=body, headers={"content-type": "application/x-ndjson"})
        assert reply.status_code == 413


@pytest.mark.feature("client-streams")
async def test_both_sides_stream_over_one_request(chat: Chat) -> None:
    """A method that streams both ways answers lines with lines."""
    body = _slowly(b'{"text": "a"}\n', b'{"text": "b"}\n')
    reply = await chat[1].request("GET", "/v1/rooms/1:talk", content=body, headers={"content-type": "application/x-ndjson"})
    assert [one["result"].get("text") for one in lines_of(reply)] == ["A", "B", "bye"]
    assert chat[0].read == 2
