"""Streaming calls over WebSockets: a text frame a message, `{"result":...}` back, `{"error":...}` as the last frame of a call that failed.

A client's stream ends with an empty frame; the replies still to come follow. A call that ends well closes with 1000, a failed one with
4000 plus its gRPC code. Browsers cannot set headers, so a key may come as the second of two subprotocols:
`new WebSocket(url, ["bearer", KEY])`.

Source: RFC 6455; codes from 4000 on are private (7.4.2).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from functools import partial

from google.protobuf.message import Message
from google.rpc import code_pb2

from server.errors import AisleError, NotFoundError
from server.gateway.binding import Binder
from server.gateway.codec import Codec
from server.gateway.http import TIMEOUT, Disconnected, Receive, Scope, Send, call_of, check_site, headers_of, raw_path, reply_headers
from server.gateway.inbox import Inbox, said, unless, until_disconnected
from server.gateway.policy import Policy
from server.gateway.rendering import Renderer
from server.gateway.replies import HttpError, Reply, error_reply, status_from, status_text
from server.gateway.rules import Match, RouteTable
from server.gateway.streams import paced
from server.interceptors.call import Call, CallError, Dispatcher
from server.telemetry import logger

CLOSE_ERROR = 4000
"""Close code of a failed call, less its gRPC code."""

_IDLE_S = 60.0  # uvicorn's pings show that the connection lives
_log = logger(__name__)


class WebSocketDoor:
    """Answers WebSockets at the paths of streaming methods, whatever HTTP method their rules name."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        codec: Codec,
        table: RouteTable,
        binders: Mapping[int, Binder],
        renderers: Mapping[int, Renderer],
        default_timeout_s: float,
        policy: Policy,
        stopping: asyncio.Event,
    ) -> None:
        """Stores its arguments; the gateway owns them all. Binders and renderers are by the identity of their route."""
        self._dispatcher = dispatcher
        self._codec = codec
        self._table = table
        self._binders = binders
        self._renderers = renderers
        self._default_timeout_s = default_timeout_s
        self._policy = policy
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one WebSocket. A client that leaves cancels its call."""
        await receive()  # websocket.connect
        headers = headers_of(scope)
        protocols = list(scope.get("subprotocols", ()))
        bearer = len(protocols) == 2 and protocols[0] == "bearer"  # the word and the key
        if bearer:
            headers.setdefault("authorization", f"Bearer {protocols[1]}")
        try:
            found, call = self._found(scope, headers)
        except (AisleError, HttpError) as error:
            status = error.http_status if isinstance(error, HttpError) else None
            await _refuse(send, error_reply(status_from(error), self._codec, http_status=status))
            return
        accepted = {"type": "websocket.accept", "headers": reply_headers("", call.response_metadata)}
        await send({**accepted, "subprotocol": "bearer"} if bearer else accepted)
        try:
            await self._answer(found, call, scope, receive, send)
        except Disconnected:
            return
        except OSError:  # what uvicorn raises where a client is gone
            return
        except Exception as error:  # noqa: BLE001  # the last resort: a caller gets a frame, the log the trace
            if not isinstance(error, (AisleError, CallError)):
                _log.exception("websocket failed", path=scope["path"])
            status = status_from(error)
            await send({"type": "websocket.send", "text": f'{{"error":{status_text(status, self._codec).decode()}}}'})
            await send({"type": "websocket.close", "code": CLOSE_ERROR + status.code, "reason": _code_name(status.code)})
        else:
            await send({"type": "websocket.close", "code": 1000})

    def _found(self, scope: Scope, headers: dict[str, str]) -> tuple[Match, Call]:
        path = raw_path(scope)
        found = self._table.match_stream(path)
        if found is None:
            raise NotFoundError(path[:200], f"no streaming method is at {path[:200]!r}; /docs lists what is")
        call = call_of(
            scope,
            headers,
            method=found.route.name,
            default_timeout_s=self._default_timeout_s,
            allowed=self._policy.request_headers,
            streams=True,
        )
        check_site(call, headers, self._policy.origins)
        return found, call

    async def _answer(self, found: Match, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        binder = self._binders[id(found.route)]
        bind = partial(binder.bind, found.values, scope["query_string"])
        if found.route.method.client_streaming:
            inbox = Inbox(said(_frames(receive), bind, "frame"), receive)
            await unless(self._write(found, call, await self._dispatcher.converse(call, inbox.messages()), send), inbox.watch)
            return
        request = bind(await _frame(receive) if binder.takes_body else b"")
        watch = partial(until_disconnected, receive)
        await unless(self._write(found, call, await self._dispatcher.stream(call, request), send), watch)

    async def _write(self, found: Match, call: Call, replies: AsyncGenerator[Message, None], send: Send) -> None:
        renderer = self._renderers[id(found.route)]
        until = call.deadline if TIMEOUT in call.metadata else None
        async with aclosing(paced(replies, idle_s=_IDLE_S, until=until, stopping=self._stopping)) as at_pace:
            async for reply in at_pace:
                if reply is not None and renderer.raw:
                    await send({"type": "websocket.send", "bytes": renderer.text(reply)})
                elif reply is not None:
                    await send({"type": "websocket.send", "text": f'{{"result":{renderer.text(reply).decode()}}}'})


async def _frame(receive: Receive) -> bytes:
    """Returns the content of the next frame, text or binary.

    Raises:
        Disconnected: The client left.
    """
    event = await receive()
    if event["type"] != "websocket.receive":
        raise Disconnected
    text: str | None = event.get("text")
    content: bytes = event["bytes"] if text is None else text.encode()
    return content


async def _frames(receive: Receive) -> AsyncGenerator[bytes, None]:
    """Yields the contents of the frames up to an empty one. Raises as `_frame`."""
    while frame := await _frame(receive):
        yield frame


async def _refuse(send: Send, reply: Reply) -> None:
    """Answers the handshake with an HTTP error."""
    headers = [*reply_headers(reply.content_type, reply.headers), (b"content-length", str(len(reply.body)).encode())]
    await send({"type": "websocket.http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": reply.body})


def _code_name(code: int) -> str:
    return code_pb2.Code.Name(code) if code in code_pb2.Code.values() else str(code)
