"""One HTTP exchange with a client that was made for another system, and the calls it leads to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from server.errors import AisleError, DeadlineExceededError, InvalidFieldError
from server.gateway.codec import dumps
from server.gateway.finishing import VARY, finish
from server.gateway.http import (
    AsgiApp,
    Disconnected,
    Incoming,
    Receive,
    Scope,
    Send,
    call_of,
    check_site,
    headers_of,
    raw_path,
    read_body,
    send_reply,
)
from server.gateway.inbox import unless, until_disconnected
from server.gateway.replies import HTTP_STATUS, HttpError, Reply, retry_after
from server.interceptors.call import Call, CallError, Dispatcher
from server.interceptors.status import status_of
from server.telemetry import logger

_Reply = TypeVar("_Reply", bound=Message)
_Body = TypeVar("_Body", bound="Body")

MAX_DEPTH = 32
"""Lists and objects inside each other, of what callers may shape as they like."""

_log = logger(__name__)


class Body(BaseModel):
    """A request's JSON with lowerCamelCase names. What is not declared is passed over, as the systems that are stood in for do."""

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


def read_json(kind: type[_Body], body: bytes) -> _Body:
    """Returns the body.

    Raises:
        InvalidFieldError: It is no JSON, or a field is missing or of the wrong type or length. The message names the first such field.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise InvalidFieldError(field_path(first["loc"]), first["msg"]) from None


def check_depth(content: Any, field: str) -> None:
    """Refuses JSON that is nested deeper than anything downstream reads.

    Raises:
        InvalidFieldError: It is nested deeper than `MAX_DEPTH`.
    """
    level, depth = [content], 0
    while level:
        if depth > MAX_DEPTH:
            raise InvalidFieldError(field, f"is nested deeper than {MAX_DEPTH} lists and objects; flatten it")
        level = [inner for one in level if isinstance(one, dict | list) for inner in (one.values() if isinstance(one, dict) else one)]
        depth += 1


def field_path(path: Sequence[str | int]) -> str:
    """Returns `items[3].name` for the parts of a path."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or "body"


@dataclass(slots=True)
class Exchange:
    """A whole request, and the way to Aisle's own methods, all of them under one deadline."""

    method: str
    path: str
    """Behind the API's prefix, percent-encoded, such as `/recommendations`."""
    full_path: str
    """As it came."""
    query: bytes
    headers: dict[str, str]
    """Names in lower case; of one sent twice the last."""
    sent_headers: list[tuple[str, str]]
    """The same, with those that were sent twice."""
    body: bytes
    call: Call
    """Names no method yet. Its metadata carry the credential."""
    dispatcher: Dispatcher

    async def ask(self, method: str, request: Message, kind: type[_Reply]) -> _Reply:
        """Returns the reply of `Service/Method` of aisle.v1, through all interceptors.

        Raises:
            CallError: The call failed.
        """
        reply = await self.dispatcher.unary(self.call_of(f"/aisle.v1.{method}"), request)
        assert isinstance(reply, kind)
        return reply

    def call_of(self, method: str) -> Call:
        """Returns a call of the method with this exchange's credential and deadline."""
        return replace(self.call, method=method, response_metadata={})

    def with_bearer(self, key: str) -> None:
        """Makes a key that came in the API's own way the credential of the calls."""
        self.call.metadata = {**self.call.metadata, "authorization": f"Bearer {key}"}


class Api(Protocol):
    """One system's API."""

    async def identify(self, exchange: Exchange) -> None:
        """Makes the credential that came in the API's own way the one of the calls.

        Raises:
            UnauthenticatedError: It does not hold.
        """
        ...

    async def answer(self, exchange: Exchange) -> Reply:
        """Returns the reply.

        Raises:
            AisleError: The request is wrong, or its call failed; also as CallError and HttpError.
        """
        ...

    def refusal(self, status: Status, http_status: int) -> Reply:
        """Returns an error as the system's clients expect it."""
        ...


class Compatibility:
    """Answers below each API's prefix as that API does; everything else goes on to the gateway."""

    def __init__(
        self, gateway: AsgiApp, dispatcher: Dispatcher, apis: dict[str, Api], *, max_body_bytes: int, default_timeout_s: float
    ) -> None:
        self._gateway = gateway
        self._dispatcher = dispatcher
        self._apis = apis
        self._max_body_bytes = max_body_bytes
        self._default_timeout_s = default_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        prefix = next((one for one in self._apis if (scope.get("path", "") + "/").startswith(one + "/")), None)
        if scope["type"] != "http" or prefix is None:
            await self._gateway(scope, receive, send)
            return
        headers, incoming = headers_of(scope), Incoming(receive)
        try:
            reply = await self._reply(self._apis[prefix], prefix, scope, headers, incoming)
        except Disconnected:
            return
        reply = await finish(reply, scope["method"], headers, ", ".join(VARY))
        await send_reply(send, reply, incoming, head=scope["method"] == "HEAD")

    async def _reply(self, api: Api, prefix: str, scope: Scope, headers: dict[str, str], receive: Receive) -> Reply:
        request_id = ""
        try:
            call = call_of(scope, headers, method="", default_timeout_s=self._default_timeout_s)
            request_id = call.metadata["x-request-id"]
            exchange = Exchange(
                method=scope["method"],
                path=raw_path(scope).removeprefix(prefix),
                full_path=raw_path(scope),
                query=scope["query_string"],
                headers=headers,
                sent_headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]],
                body=await read_body(receive, headers, limit=self._max_body_bytes),
                call=call,
                dispatcher=self._dispatcher,
            )
            async with asyncio.timeout(max(0.0, call.deadline - time.monotonic())):
                await api.identify(exchange)
                check_site(call, headers)
                reply = await unless(api.answer(exchange), partial(until_disconnected, receive))
        except HttpError as error:
            reply = _refusal(api, error.status, error.http_status)
            reply = replace(reply, headers={**error.headers, **reply.headers})
        except CallError as error:
            reply = _refusal(api, error.status)
        except AisleError as error:
            reply = _refusal(api, status_of(error))
        except TimeoutError:
            reply = _refusal(api, status_of(DeadlineExceededError("the deadline passed before the answer was ready")))
        except Disconnected:
            raise
        except Exception:  # noqa: BLE001  # the last resort: a caller gets a reply, the log the trace
            _log.exception("request failed", path=scope["path"], request_id=request_id)
            reply = _refusal(api, status_of(AisleError("internal error; see the server's log")))
        return replace(reply, headers={"x-request-id": request_id, **reply.headers})


def _refusal(api: Api, status: Status, http_status: int | None = None) -> Reply:
    reply = api.refusal(status, http_status or HTTP_STATUS.get(status.code, 500))
    seconds = retry_after(status)
    return replace(reply, headers={**reply.headers, **({"retry-after": seconds} if seconds else {})})


def only(exchange: Exchange, method: str) -> None:
    """Refuses any other HTTP method.

    Raises:
        HttpError: 405.
    """
    if exchange.method != method:
        error = InvalidFieldError("method", f"is {exchange.method[:20]}; use {method}")
        raise HttpError(405, error, allow=method)


def json_reply(content: Any, status: int = 200, **headers: str) -> Reply:
    """Returns a reply with a JSON body."""
    return Reply(status, dumps(content), headers={name.replace("_", "-"): value for name, value in headers.items()})
