"""Hostile bytes on the HTTP door's socket, and hostile messages at the gRPC door."""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import psutil
import pytest
from google.protobuf.message import Message
from websockets.asyncio.client import connect

from server.api.server import open_grpc_door
from server.gateway.build import build_gateway
from server.gateway.http import Receive, Scope, Send
from server.gateway.protocol import MOST_HEAD_BYTES
from server.gateway.server import open_gateway
from tests.fixtures_gateway import library
from tests.unit.gateway.test_fuzz import _Echo

_MIB = 1024 * 1024
_SHORT_S = 0.5


async def _ready() -> list[str]:
    return []


class _Watching(_Echo):
    """Echoes, and counts the calls that reach it."""

    def __init__(self) -> None:
        self.calls = 0

    async def unary(self, call: Any, request: Message) -> Message:
        """Counts and echoes."""
        self.calls += 1
        call.response_metadata["x-said"] = call.metadata.get("user-agent", "")
        return await super().unary(call, request)


@asynccontextmanager
async def _door(read_timeout_s: float = 5.0) -> AsyncIterator[tuple[str, int, _Watching]]:
    """Yields host, port and what answers."""
    echo = _Watching()
    app = build_gateway(
        echo,
        pool=library().pool,
        comments={},
        ready=_ready,
        title="Library",
        version="1",
        max_body_bytes=_MIB,
        default_timeout_s=5.0,
        mounts={},
    )
    async with open_gateway(app, "127.0.0.1:0", drain_s=1, read_timeout_s=read_timeout_s) as address:
        host, _, port = address.rpartition(":")
        yield host, int(port), echo


async def _talk(host: str, port: int, sent: bytes) -> bytes:
    """Sends bytes and returns all that comes back until the server closes, or has been silent for a second."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(sent)
        await writer.drain()
        received = b""
        while True:
            try:
                part = await asyncio.wait_for(reader.read(65536), 1)
            except TimeoutError:
                return received
            if not part:
                return received + b"<closed>"
            received += part
    except ConnectionError:
        return b"<closed>"  # a reset may overtake the answer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


_POST = b"POST /v1/echo HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
_HIDDEN = b"POST /v1/echo HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
_PLAIN = _HIDDEN.replace(b"host: a", b"host: a\r\nconnection: close")

_SMUGGLED = {
    "length and chunks": _POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + _HIDDEN,
    "chunks and length": _POST + b"transfer-encoding: chunked\r\ncontent-length: 100\r\n\r\n0\r\n\r\n" + _HIDDEN,
    "two lengths": _POST + b"content-length: 2\r\ncontent-length: 100\r\n\r\n{}" + _HIDDEN,
    "a list of lengths": _POST + b"content-length: 2, 2\r\n\r\n{}" + _HIDDEN,
    "a negative length": _POST + b"content-length: -2\r\n\r\n{}" + _HIDDEN,
    "a signed length": _POST + b"content-length: +2\r\n\r\n{}" + _HIDDEN,
    "a hexadecimal length": _POST + b"content-length: 0x2\r\n\r\n{}" + _HIDDEN,
    "a huge length": _POST + b"content-length: 99999999999999999999999\r\n\r\n{}" + _HIDDEN,
    "an unknown coding": _POST + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n" + _HIDDEN,
    "a misspelt coding": _POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + _HIDDEN,
    "space before the colon": _POST + b"content-length : 2\r\n\r\n{}" + _HIDDEN,
    "a folded header": _POST + b"transfer-encoding:\r\n chunked\r\ncontent-length: 2\r\n\r\n0\r\n\r\n" + _HIDDEN,
    "a control character in a name": _POST + b"content-\x01length: 2\r\n\r\n{}" + _HIDDEN,
    "NUL in a value": _POST + b"x: a\x00b\r\ncontent-length: 2\r\n\r\n{}" + _HIDDEN,
    "a lone return in a value": _POST + b"x: a\rcontent-length: 2\r\n\r\n{}" + _HIDDEN,
    "a chunk size that overflows": _POST + b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}\r\n0\r\n\r\n" + _HIDDEN,
    "a chunk size with a sign": _POST + b"transfer-encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\n" + _HIDDEN,
    "a chunk without its end": _POST + b"transfer-encoding: chunked\r\n\r\n2\r\n{}XX0\r\n\r\n" + _HIDDEN,
    "an older version with chunks": _POST.replace(b"1.1", b"1.9") + b"content-length: 2\r\n\r\n{}" + _HIDDEN,
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + _HIDDEN,
    "HTTP/2 in plain": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _HIDDEN,
}


@pytest.mark.parametrize("name", _SMUGGLED)
async def test_what_can_be_read_in_two_ways_is_read_in_none(name: str) -> None:
    """An ambiguous or malformed request gets 400 (or nothing), the connection closes, and what follows in it never becomes a request."""
    async with _door() as (host, port, echo):
        received = await _talk(host, port, _SMUGGLED[name])
        assert received.endswith(b"<closed>"), received
        assert received.count(b"HTTP/1.1 ") <= 1, received
        assert received == b"<closed>" or received.startswith(b"HTTP/1.1 4"), received
        assert echo.calls == 0
        assert b" 200 " in await _talk(host, port, _PLAIN)


async def test_a_plain_request_follows_another_on_one_connection() -> None:
    """The counterpart: two well-formed requests in a row are two requests."""
    async with _door() as (host, port, echo):
        assert (await _talk(host, port, _HIDDEN + _HIDDEN)).count(b"HTTP/1.1 200") == 2
        assert echo.calls == 2


_SLOW = {
    "nothing": b"",
    "half a line": b"GET /v1/ech",
    "half the headers": b"GET /v1/echo HTTP/1.1\r\nhost: a\r\nx-a: ",
    "half the body": _POST + b"content-length: 100\r\n\r\n{",
    "half a chunk": _POST + b"transfer-encoding: chunked\r\n\r\nff\r\n{",
    "half of a second request": _HIDDEN + b"GET /v1",
}


@pytest.mark.parametrize("name", _SLOW)
async def test_a_request_that_trickles_in_is_given_up(name: str) -> None:
    """A connection that sends a byte now and then is closed with 408 when its time is over, however it spreads them."""
    async with _door(read_timeout_s=1.0) as (host, port, _):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(_SLOW[name])
        received = b""
        for _ in range(100):
            try:
                part = await asyncio.wait_for(reader.read(65536), 0.3)
            except TimeoutError:
                if _SLOW[name]:
                    writer.write(b"1")
                continue
            except ConnectionError:
                part = b""
            if not part:
                break
            received += part
        else:
            pytest.fail("the connection stayed open")
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        assert b"HTTP/1.1 408" in received


async def _parrot(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends back what comes, message by message: of a WebSocket, and of a body of lines. Refuses other bodies unread."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": event["text"]})
        return
    lines = (b"x-refuse", b"") not in scope["headers"]
    await send({"type": "http.response.start", "status": 200 if lines else 415, "headers": []})
    while lines and (event := await receive())["type"] == "http.request":
        await send({"type": "http.response.body", "body": event["body"], "more_body": True})
        lines = event["more_body"]
    await send({"type": "http.response.body", "body": b""})


async def _late(read: Callable[[], Awaitable[bytes]], say: Callable[[bytes], object]) -> list[bytes]:
    """Says three things, with twice the time that a request has before each, and returns what is said back."""
    heard = []
    for text in (b"a", b"b", b"c"):
        await asyncio.sleep(2 * _SHORT_S)
        say(text)
        heard.append(await asyncio.wait_for(read(), 30))
    return heard


async def test_a_websocket_outlives_the_time_of_a_request() -> None:
    """Frames that come long after the connection was made are answered; a handshake that trickles in is given up."""
    async with open_gateway(_parrot, "127.0.0.1:0", drain_s=1, read_timeout_s=_SHORT_S) as address:
        async with connect(f"ws://{address}/") as socket:

            async def answer() -> bytes:
                return bytes(await socket.recv(decode=False))

            tasks = set()

            def say(text: bytes) -> None:
                tasks.add(asyncio.create_task(socket.send(text.decode())))

            assert await _late(answer, say) == [b"a", b"b", b"c"]
        host, _, port = address.rpartition(":")
        received = await _talk(host, int(port), b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nx: ")
        assert received.startswith(b"HTTP/1.1 408")


async def test_a_stream_of_requests_outlives_the_time_of_a_request() -> None:
    """Lines that come long after the headers are answered, as long as no reply is whole; after one, the rest is not waited for."""
    async with open_gateway(_parrot, "127.0.0.1:0", drain_s=1, read_timeout_s=_SHORT_S) as address:
        host, _, port = address.rpartition(":")
        head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n"
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head + b"\r\n")

        async def chunk() -> bytes:
            await reader.readuntil(b"1\r\n")
            return (await reader.readuntil(b"\r\n")).strip()

        assert await _late(chunk, lambda text: writer.write(b"1\r\n" + text + b"\r\n")) == [b"a", b"b", b"c"]
        writer.close()
        await writer.wait_closed()
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head + b"x-refuse:\r\n\r\n1\r\na\r\n")
        assert (await asyncio.wait_for(reader.read(), 30)).startswith(b"HTTP/1.1 415")  # read to the end: the server closed
        writer.close()


async def test_slow_connections_keep_nobody_out() -> None:
    """With 300 connections that send half a request each, another one is answered."""
    async with _door() as (host, port, _):
        held = [await asyncio.open_connection(host, port) for _ in range(300)]
        for _, writer in held:
            writer.write(b"GET /v1/echo HTTP/1.1\r\nx: ")
        assert b" 200 " in await _talk(host, port, _PLAIN)
        for _, writer in held:
            writer.close()
            await writer.wait_closed()


@pytest.mark.parametrize("endless", [b"x-a: b\r\n", b"b"], ids=["headers", "one header"])
async def test_headers_without_end_are_refused(endless: bytes) -> None:
    """Headers beyond 128 KiB are answered 431, and no more of them is taken in."""
    async with _door() as (host, port, _):
        sent = b"GET /v1/echo HTTP/1.1\r\nhost: a\r\nx: " + endless * (4 * MOST_HEAD_BYTES // len(endless))
        received = await _talk(host, port, sent)
        assert received.startswith((b"HTTP/1.1 431", b"<closed>"))  # a reset may overtake the answer
        whole = b"GET /v1/echo HTTP/1.1\r\nhost: a\r\nx: " + b"b" * MOST_HEAD_BYTES + b"\r\n\r\n"
        assert (await _talk(host, port, whole)).startswith((b"HTTP/1.1 431", b"<closed>"))


async def test_a_compressed_body_is_inflated_no_further_than_its_limit() -> None:
    """A gzip body of 64 MiB in 64 KiB is refused with 413, and the memory does not grow by it."""
    bomb = gzip.compress(b'{"a": "' + b"a" * (64 * _MIB) + b'"}')
    async with _door() as (host, port, _):
        before = psutil.Process().memory_info().rss
        head = _POST + f"content-encoding: gzip\r\ncontent-length: {len(bomb)}\r\nconnection: close\r\n\r\n".encode()
        received = await _talk(host, port, head + bomb)
        assert received.startswith(b"HTTP/1.1 413")
        assert psutil.Process().memory_info().rss - before < 32 * _MIB


async def test_grpc_counts_a_message_after_inflating_it() -> None:
    """A gzip frame of 64 KiB that holds 64 MiB is refused by the limit of 4 MiB and reaches nobody."""
    method = next(name for name in library().methods if name.endswith("/Echo"))
    echo = _Watching()
    async with (
        open_grpc_door(echo, address="127.0.0.1:0", default_timeout_s=5, max_message_bytes=4 * _MIB, reuse_port=False) as door,
        grpc.aio.insecure_channel(f"127.0.0.1:{door.port}") as channel,
    ):
        call = channel.unary_unary(method)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(bytes(64 * _MIB), compression=grpc.Compression.Gzip, timeout=60)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "max" in (caught.value.details() or "")
        assert echo.calls == 0


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
async def test_deep_json_is_refused(opening: bytes) -> None:
    """A hundred thousand levels of JSON are a 400, and the server goes on."""
    async with _door() as (host, port, _):
        body = opening * 100_000
        head = _POST + f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
        received = await _talk(host, port, head + body)
        assert received.startswith(b"HTTP/1.1 400"), received[:200]
        assert b" 200 " in await _talk(host, port, _PLAIN)


def test_hashes_of_strings_are_seeded() -> None:
    """Nobody can choose keys that collide in a dictionary: the seed is random in each process, and no setting of ours fixes it."""
    assert sys.flags.hash_randomization == 1


async def test_many_keys_cost_no_more_than_their_number() -> None:
    """50,000 keys in one object are read, or refused as unknown fields, in order: one 400, no fault."""
    body = json.dumps({f"k{n}": n for n in range(50_000)}).encode()
    async with _door() as (host, port, _):
        head = _POST + f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
        assert (await _talk(host, port, head + body))[:12] in {b"HTTP/1.1 200", b"HTTP/1.1 400"}


@pytest.mark.parametrize("value", [b"a\tb", b"caf\xc3\xa9", b"a%0d%0aset-cookie: x=1", b"\xe5\x98\x8a\xe5\x98\x8dset-cookie: x=1"])
async def test_what_comes_in_a_header_cannot_become_another(value: bytes) -> None:
    """A value that is sent back stays one header's value: no escape, and no character whose low byte is a line end, begins a new line."""
    async with _door() as (host, port, _):
        sent = _POST + b"connection: close\r\ncontent-length: 2\r\nuser-agent: " + value + b"\r\n\r\n{}"
        head = (await _talk(host, port, sent)).partition(b"\r\n\r\n")[0].lower()
        assert head.startswith(b"http/1.1 200")
        assert b"\nset-cookie" not in head


async def test_every_reply_carries_the_security_headers() -> None:
    """Replies of methods, pages, errors and the parser forbid framing, sniffing, scripts and referrers."""
    async with _door() as (host, port, _):
        requests = [_HIDDEN, b"GET /docs HTTP/1.1\r\nhost: a\r\n\r\n", b"GET /none HTTP/1.1\r\nhost: a\r\n\r\n", b"nonsense\r\n\r\n"]
        for sent in requests:
            head = (await _talk(host, port, sent)).partition(b"\r\n\r\n")[0].lower()
            for header in (
                b"x-content-type-options: nosniff",
                b"x-frame-options: deny",
                b"referrer-policy: no-referrer",
                b"default-src 'none'",
                b"frame-ancestors 'none'",
            ):
                assert header in head, (sent, header)
            assert b"\nserver:" not in head
