"""The HTTP door as an ASGI application: finds the route, builds the request, calls the dispatcher, writes the reply as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.rpc import error_details_pb2  # noqa: F401  # error details must be in the pool to be written as JSON

from server.errors import AisleError, InvalidArgumentError, NotFoundError
from server.gateway.binding import HTTP_BODY, Binder
from server.gateway.codec import Codec
from server.gateway.encoder import EncodeError
from server.gateway.http import (
    AsgiApp,
    Disconnected,
    Receive,
    Scope,
    Send,
    call_of,
    check_json,
    check_site,
    headers_of,
    raw_path,
    read_body,
    send_reply,
)
from server.gateway.replies import HttpError, Reply, error_reply
from server.gateway.rules import Match, Miss, Route, RouteTable
from server.interceptors.call import Call, CallError, Dispatcher
from server.interceptors.status import status_of, unimplemented
from server.telemetry import logger

Page = Callable[[], Awaitable[Reply]]
"""Answers GET at a fixed path."""

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
    ) -> None:
        """Compiles what each route needs.

        Args:
            dispatcher: Answers the calls.
            table: The routes to its methods.
            pool: Holds the types of its methods.
            max_body_bytes: A larger body is refused with 413.
            default_timeout_s: Deadline of a request without `grpc-timeout`.
            pages: Path -> what GET gives there.
            mounts: Path -> ASGI application that answers there.
        """
        self._dispatcher = dispatcher
        self._codec = Codec(pool)
        self._table = table
        self._binders = {id(route): Binder(route, self._codec) for route in self._table.routes}
        for route in table.routes:
            self._codec.prepare(route.method.input_type, route.method.output_type)
        self._max_body_bytes = max_body_bytes
        self._default_timeout_s = default_timeout_s
        self._pages = pages
        self._mounts = mounts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. A client that leaves cancels its call."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000, "reason": "no WebSocket is offered here"})
            return
        if scope["type"] != "http":
            return
        mount = self._mounts.get(scope["path"])
        if mount is not None:
            await mount(scope, receive, send)
            return
        try:
            reply = await self._reply(scope, receive)
        except Disconnected:
            return
        await send_reply(send, reply, head=scope["method"] == "HEAD")

    async def _reply(self, scope: Scope, receive: Receive) -> Reply:
        """Returns the reply, whatever happens.

        Raises:
            Disconnected: Nobody waits for one.
        """
        try:
            return await self._answer(scope, receive)
        except HttpError as error:
            return error_reply(error.status, self._codec, http_status=error.http_status, headers=error.headers)
        except AisleError as error:
            return error_reply(status_of(error), self._codec)
        except Disconnected:
            raise
        except Exception:  # noqa: BLE001  # the last resort: a caller gets a reply, the log the trace
            _log.exception("request failed", path=scope["path"])
            return error_reply(status_of(AisleError("internal error; see the server's log")), self._codec)

    async def _answer(self, scope: Scope, receive: Receive) -> Reply:
        method, path = scope["method"], raw_path(scope)
        page = self._pages.get(path)
        found = Miss(frozenset({"GET"})) if page is not None else self._table.match(method, path)
        if page is not None and method in {"GET", "HEAD"}:
            return await page()
        if isinstance(found, Miss):
            return _missed(found, method, path)
        route = found.route
        headers = headers_of(scope)
        call = call_of(scope, headers, method=route.name, default_timeout_s=self._default_timeout_s)
        try:
            return await self._transcode(found, call, scope, headers, receive)
        except CallError as error:
            return error_reply(error.status, self._codec, headers=call.response_metadata)
        except HttpError as error:
            return error_reply(
                error.status, self._codec, http_status=error.http_status, headers={**call.response_metadata, **error.headers}
            )
        except AisleError as error:
            return error_reply(status_of(error), self._codec, headers=call.response_metadata)

    async def _transcode(self, found: Match, call: Call, scope: Scope, headers: dict[str, str], receive: Receive) -> Reply:
        route = found.route
        if route.method.server_streaming or route.method.client_streaming:
            status = unimplemented(call.method)
            status.message = f"{call.method} streams, which this HTTP door does not offer; call it by gRPC"
            raise CallError(status)
        check_site(call, headers)
        binder = self._binders[id(route)]
        body = await read_body(receive, headers, limit=self._max_body_bytes)
        if body and binder.takes_body and not binder.takes_raw_body:
            check_json(headers)
        request = binder.bind(found.values, scope["query_string"], body, headers.get("content-type", ""))
        reply = await _unless_disconnected(self._dispatcher.unary(call, request), receive)
        return self._encode(route, reply, call)

    def _encode(self, route: Route, message: Message, call: Call) -> Reply:
        field = route.method.output_type.fields_by_name[route.response_body] if route.response_body else None
        raw: Any = message if field is None else getattr(message, field.name)
        kind = route.method.output_type if field is None else field.message_type
        if kind is not None and kind.full_name == HTTP_BODY:
            return Reply(200, raw.data, raw.content_type or "application/octet-stream", call.response_metadata)
        try:
            return Reply(200, self._codec.encode(message, field), headers=call.response_metadata)
        except EncodeError as error:
            raise AisleError(f"the reply has no JSON form: {error}") from error


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


async def _unless_disconnected(answer: Awaitable[Message], receive: Receive) -> Message:
    """Returns the answer, or cancels it when the client leaves.

    Raises:
        Disconnected: The client left first.
    """
    this = asyncio.current_task()
    assert this is not None
    left = False

    async def watch() -> None:
        nonlocal left
        while (await receive())["type"] != "http.disconnect":
            pass
        left = True
        this.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await answer
    except asyncio.CancelledError:
        if left and this.uncancel() == 0:
            raise Disconnected from None
        raise
    finally:
        watcher.cancel()
