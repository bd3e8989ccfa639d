"""The HTTP door as an ASGI application: finds the route, builds the request, calls the dispatcher, writes the reply."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.rpc import error_details_pb2  # noqa: F401  # error details must be in the pool to be written as JSON
from starlette.middleware.cors import CORSMiddleware

from server.errors import AisleError, DeadlineExceededError, InvalidArgumentError, NotFoundError
from server.gateway.binding import Binder
from server.gateway.codec import Codec
from server.gateway.finishing import VARY, finish
from server.gateway.frames import OFFERED, Raw, TruncatedError, frames_for
from server.gateway.http import (
    TIMEOUT,
    AsgiApp,
    Disconnected,
    Incoming,
    Receive,
    Scope,
    Send,
    call_of,
    check_json,
    check_lines,
    check_site,
    headers_of,
    raw_path,
    read_body,
    read_lines,
    send_reply,
)
from server.gateway.inbox import Inbox, said, unless, until_disconnected
from server.gateway.policy import Policy
from server.gateway.rendering import Renderer
from server.gateway.replies import HttpError, Reply, error_reply, status_from, status_text
from server.gateway.rules import Match, Miss, Route, RouteTable
from server.gateway.streams import StreamWriter, paced
from server.gateway.websocket import WebSocketDoor
from server.interceptors.call import Call, CallError, Dispatcher
from server.interceptors.status import status_of
from server.telemetry import logger

Page = Callable[[], Awaitable[Reply]]
"""Answers GET at a fixed path."""

CORS_MAX_AGE_S = 7200
"""How long a browser remembers what it may send; Chromium keeps it no longer."""

IDLE_S = 15.0
"""A stream that has nothing to send shows that it lives so often, where its framing has a way."""

_UNWATCHED_S = 0.005
"""A call that takes no longer is not worth a look at whether its client is still there."""

_log = logger(__name__)


class Gateway:
    """REST over a dispatcher.

    Looks at mounts first, then at pages, then at the transcoded routes.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        table: RouteTable,
        pool: DescriptorPool,
        max_body_bytes: int,
        default_timeout_s: float,
        pages: Mapping[str, Page],
        mounts: Mapping[str, AsgiApp],
        policy: Policy,
        idle_s: float = IDLE_S,
    ) -> None:
        """Compiles what each route needs.

        Args:
            dispatcher: Answers the calls.
            table: The routes to its methods.
            pool: Holds the types of its methods.
            max_body_bytes: A larger body is refused with 413, a larger reply with 400.
            default_timeout_s: Deadline of a request without `grpc-timeout`. A stream without it has no end.
            pages: Path -> what GET gives there.
            mounts: Path -> ASGI application that answers there.
            policy: Headers, origins and caches.
            idle_s: Seconds between the heartbeats of an idle stream.
        """
        self._dispatcher = dispatcher
        self._codec = Codec(pool)
        self._table = table
        self._binders = {id(route): _binder(route, self._codec) for route in table.routes}
        self._renderers = {id(route): Renderer(route, self._codec, max_body_bytes) for route in table.routes}
        for route in table.routes:
            self._codec.prepare(route.method.input_type, route.method.output_type)
        self._max_body_bytes = max_body_bytes
        self._default_timeout_s = default_timeout_s
        self._pages = pages
        self._mounts = mounts
        self._policy = policy
        self._idle_s = idle_s
        self._vary = ", ".join(sorted({*VARY, *policy.request_headers}))
        self._stopping = asyncio.Event()
        self._app = _with_cors(self._http, policy)
        self._websockets = WebSocketDoor(
            dispatcher,
            codec=self._codec,
            table=table,
            binders=self._binders,
            renderers=self._renderers,
            default_timeout_s=default_timeout_s,
            policy=policy,
            stopping=self._stopping,
        )

    def end_streams(self) -> None:
        """Ends open streams with UNAVAILABLE, since they would keep the server from stopping."""
        self._stopping.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. A client that leaves cancels its call."""
        if scope["type"] == "websocket":
            await self._websockets(scope, receive, send)
            return
        if scope["type"] == "http":
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        mount = self._mounts.get(scope["path"])
        if mount is not None:
            await mount(scope, receive, send)
            return
        headers, incoming = headers_of(scope), Incoming(receive)
        try:
            reply = await self._reply(scope, headers, incoming, send)
        except (Disconnected, TruncatedError):
            return
        if reply is not None:
            reply = await finish(reply, scope["method"], headers, self._vary)
            await send_reply(send, reply, incoming, head=scope["method"] == "HEAD")

    async def _reply(self, scope: Scope, headers: dict[str, str], receive: Receive, send: Send) -> Reply | None:
        """Returns the reply, whatever happens; None if it has been sent already.

        Raises:
            Disconnected: Nobody waits for one.
            TruncatedError: The connection must be broken off.
        """
        try:
            return await self._answer(scope, headers, receive, send)
        except HttpError as error:
            return error_reply(error.status, self._codec, http_status=error.http_status, headers=error.headers)
        except AisleError as error:
            return error_reply(status_of(error), self._codec)
        except (Disconnected, TruncatedError):
            raise
        except Exception:  # noqa: BLE001  # the last resort: a caller gets a reply, the log the trace
            _log.exception("request failed", path=scope["path"])
            return error_reply(status_of(AisleError("internal error; see the server's log")), self._codec)

    async def _answer(self, scope: Scope, headers: dict[str, str], receive: Receive, send: Send) -> Reply | None:
        method, path = scope["method"], raw_path(scope)
        page = self._pages.get(path)
        found = Miss(frozenset({"GET"})) if page is not None else self._table.match(method, path)
        if page is not None and method in {"GET", "HEAD"}:
            return await page()
        return _missed(found, method, path) if isinstance(found, Miss) else await self._call(found, scope, headers, receive, send)

    async def _call(self, found: Match, scope: Scope, headers: dict[str, str], receive: Receive, send: Send) -> Reply | None:
        route = found.route
        streams = route.method.server_streaming or route.method.client_streaming
        call = call_of(
            scope,
            headers,
            method=route.name,
            default_timeout_s=self._default_timeout_s,
            allowed=self._policy.request_headers,
            streams=streams,
        )
        try:
            check_site(call, headers, self._policy.origins)
            if streams:
                return await self._stream(found, call, scope, headers, receive, send)
            return await self._unary(found, call, scope, headers, receive)
        except CallError as error:
            return error_reply(error.status, self._codec, headers=call.response_metadata)
        except HttpError as error:
            return error_reply(
                error.status, self._codec, http_status=error.http_status, headers={**call.response_metadata, **error.headers}
            )
        except AisleError as error:
            return error_reply(status_of(error), self._codec, headers=call.response_metadata)

    async def _unary(self, found: Match, call: Call, scope: Scope, headers: dict[str, str], receive: Receive) -> Reply:
        request = await self._request(found, scope, headers, receive)
        message = await unless(self._dispatcher.unary(call, request), partial(until_disconnected, receive), after_s=_UNWATCHED_S)
        return self._renderers[id(found.route)].whole(message, call.response_metadata, self._policy.max_age_s.get(call.method, 0))

    async def _request(self, found: Match, scope: Scope, headers: dict[str, str], receive: Receive) -> Message:
        """Reads the body and returns the request."""
        binder = self._binders[id(found.route)]
        body = await read_body(receive, headers, limit=self._max_body_bytes)
        if body and binder.takes_body and not binder.takes_raw_body:
            check_json(headers)
        return binder.bind(found.values, scope["query_string"], body, headers.get("content-type", ""))

    async def _stream(self, found: Match, call: Call, scope: Scope, headers: dict[str, str], receive: Receive, send: Send) -> Reply | None:
        """Writes a stream of replies, or returns the one reply of a client's stream."""
        method, renderer = found.route.method, self._renderers[id(found.route)]
        frames = Raw() if renderer.raw else frames_for(headers.get("accept", ""), headers.get("last-event-id", ""))
        if frames is None and method.server_streaming:
            raise HttpError(406, InvalidArgumentError(f"{call.method} streams; accept one of {', '.join(OFFERED)}", header="accept"))
        if frames is not None and scope["method"] == "HEAD":
            return Reply(200, content_type=frames.content_type, headers=call.response_metadata)
        if method.client_streaming:
            check_lines(headers)
            bind = partial(self._binders[id(found.route)].bind, found.values, scope["query_string"])
            inbox = Inbox(said(read_lines(receive, limit=self._max_body_bytes), bind, "message"), receive)
            opening, watch = self._dispatcher.converse(call, inbox.messages()), inbox.watch
        else:
            opening = self._dispatcher.stream(call, await self._request(found, scope, headers, receive))
            watch = partial(until_disconnected, receive)
        if frames is None or not method.server_streaming:
            return renderer.whole(await unless(_only(call, opening), watch), call.response_metadata)
        await self._write(StreamWriter(send, frames, call.response_metadata), call, renderer, opening, watch)
        return None

    async def _write(
        self,
        writer: StreamWriter,
        call: Call,
        renderer: Renderer,
        opening: Awaitable[AsyncGenerator[Message, None]],
        watch: Callable[[], Awaitable[None]],
    ) -> None:
        async def write() -> None:
            until = call.deadline if TIMEOUT in call.metadata else None
            replies = paced(await opening, idle_s=self._idle_s, until=until, stopping=self._stopping)
            await writer.write(replies, renderer)

        try:
            await unless(write(), watch)
        except (Disconnected, TruncatedError):
            raise
        except Exception as error:
            if not writer.begun:
                raise
            if not isinstance(error, (AisleError, CallError, HttpError)):
                _log.exception("stream failed", method=call.method)
            await writer.fail(status_text(status_from(error), self._codec))


async def _only(call: Call, opening: Awaitable[AsyncGenerator[Message, None]]) -> Message:
    """Returns the one reply of a call, in the time that it has.

    Raises:
        CallError: The call failed, its time is up, or it has no reply.
    """
    try:
        async with asyncio.timeout(call.deadline - time.monotonic() if TIMEOUT in call.metadata else None):
            async with aclosing(await opening) as replies:
                async for reply in replies:
                    return reply
    except TimeoutError as error:
        raise CallError(status_of(DeadlineExceededError("the deadline passed before the answer was ready"))) from error
    raise CallError(status_of(AisleError(f"{call.method} ended without a reply")))


def _with_cors(app: AsgiApp, policy: Policy) -> AsgiApp:
    """Returns the application with leave for pages of other origins, without cookies."""
    if not policy.origins:
        return app
    return CORSMiddleware(
        app, allow_origins=sorted(policy.origins), allow_methods=["*"], allow_headers=["*"], expose_headers=["*"], max_age=CORS_MAX_AGE_S
    )


def _binder(route: Route, codec: Codec) -> Binder:
    """Returns what builds a route's requests. What a client streams must come by the body, whatever the rule says."""
    return Binder(replace(route, body=route.body or "*") if route.method.client_streaming else route, codec)


def _missed(miss: Miss, method: str, path: str) -> Reply:
    """Returns OPTIONS's reply.

    Raises:
        HttpError: 404, or 405 with what is allowed.
    """
    if not miss.allowed:
        raise HttpError(404, NotFoundError(path[:200], f"nothing is at {path[:200]!r}; /docs lists what is"))
    names = set(miss.allowed) | {"OPTIONS"} | ({"HEAD"} if "GET" in miss.allowed else set())
    allowed = ", ".join(sorted(names))
    if method == "OPTIONS":
        return Reply(204, headers={"allow": allowed})
    raise HttpError(
        405, InvalidArgumentError(f"{method[:20]} is not allowed at {path[:200]!r}; use {allowed}", method=method[:20]), allow=allowed
    )
