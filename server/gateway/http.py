"""What HTTP requests carry besides their message: body, headers, deadline, peer. Bare ASGI."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from server.errors import InvalidArgumentError, InvalidFieldError, PermissionDeniedError
from server.gateway.compression import CODINGS, inflate
from server.gateway.replies import HttpError, Reply
from server.interceptors.call import Call

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_METADATA = frozenset(
    {
        "authorization",
        "x-api-key",
        "x-aisle-consistency-token",
        "x-aisle-priority",
        "x-request-id",
        "traceparent",
        "tracestate",
        "user-agent",
        "accept-language",
        "last-event-id",
    }
)
"""Headers that become metadata. Others do so behind the prefix, as in grpc-gateway."""
_PREFIX = "grpc-metadata-"
_RESERVED = ("grpc-", ":", "x-forwarded-for")
"""Metadata that gRPC itself gives a meaning, and whom the call comes from."""
TIMEOUT = "grpc-timeout"
_OWN_HEADERS = frozenset({"content-length", "content-type", "transfer-encoding", "connection", "grpc-status", "grpc-message", "trailer"})
_REQUEST_ID_CHARS = 128
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_LINES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-json-stream"})
_LINGER_S = 2.0
_DROPPED_BYTES = 16 * 1024 * 1024
_HEADER = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")


class Disconnected(Exception):  # noqa: N818  # an event, not an error
    """The client went away before its request was whole."""


def headers_of(scope: Scope) -> dict[str, str]:
    """Returns the headers, names in lower case. Of a header sent twice the last counts."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def call_of(
    scope: Scope,
    headers: dict[str, str],
    *,
    method: str,
    default_timeout_s: float,
    allowed: frozenset[str] = frozenset(),
    streams: bool = False,
) -> Call:
    """Returns the call's circumstances. A request without a usable id gets one.

    Args:
        scope: Of ASGI.
        headers: As `headers_of` returns them.
        method: Full name with slashes.
        default_timeout_s: Deadline without `grpc-timeout`. For a stream it bounds the opening alone.
        allowed: Further headers that become metadata.
        streams: Whether the call is a stream. Then `grpc-timeout` stays in the metadata: only with it a stream has an end.

    Raises:
        InvalidFieldError: `grpc-timeout` is malformed.
    """
    metadata = {}
    for name, value in headers.items():
        if name in _METADATA or name in allowed or (streams and name == TIMEOUT):
            metadata[name] = value
        elif name.startswith(_PREFIX) and not (bare := name.removeprefix(_PREFIX)).startswith(_RESERVED):
            metadata[bare] = value
    request_id = metadata.get("x-request-id", "")
    if not 0 < len(request_id) <= _REQUEST_ID_CHARS or not request_id.isprintable() or not request_id.isascii():
        request_id = metadata["x-request-id"] = secrets.token_hex(8)  # it goes into logs and back into a header
    if scope.get("client"):
        # A stand-alone gateway sends it on: its upstream must not take the gateway's caller for this machine.
        metadata["x-forwarded-for"] = ", ".join(part for part in (headers.get("x-forwarded-for", ""), scope["client"][0]) if part)
    return Call(
        method=method,
        door="http",
        metadata=metadata,
        deadline=time.monotonic() + _timeout_s(headers, default_timeout_s),
        loopback=_is_loopback(scope, headers),
        peer=scope["client"][0] if scope.get("client") else "",
        certificate=scope.get("state", {}).get("certificate", ()),
        response_metadata={"x-request-id": request_id},
    )


def _timeout_s(headers: dict[str, str], default_s: float) -> float:
    text = headers.get(TIMEOUT)
    if text is None:
        return default_s
    found = _TIMEOUT.fullmatch(text)
    if found is None:
        raise InvalidFieldError(TIMEOUT, f"must be up to 8 digits and one of H, M, S, m, u, n, such as '500m', not {text[:40]!r}")
    return int(found[1]) * _UNITS_S[found[2]]


def _is_loopback(scope: Scope, headers: dict[str, str]) -> bool:
    """Returns whether the caller is on this machine. One that came through a proxy is not, wherever the proxy is."""
    client = scope.get("client")
    return client is not None and "x-forwarded-for" not in headers and "forwarded" not in headers and _is_own(client[0])


@lru_cache(maxsize=4096)
def _is_own(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def cross_site(headers: dict[str, str], origins: frozenset[str] = frozenset()) -> bool:
    """Returns whether a browser sent the request for a page of another origin. Other clients send none of these headers.

    Args:
        headers: Of the request.
        origins: Other origins that may call without a key. `*` stands for none here: keys are what opens a door to all pages.
    """
    origin = headers.get("origin")
    if origin in origins:
        return False
    own = origin is None or urlsplit(origin).netloc == headers.get("host")
    return headers.get("sec-fetch-site", "none") not in {"same-origin", "none"} or not own


def check_site(call: Call, headers: dict[str, str], origins: frozenset[str] = frozenset()) -> None:
    """Refuses what pages of other origins send with the browser of someone who needs no key: on this machine, or with a certificate.

    Raises:
        PermissionDeniedError: The call comes from such a page and without a key.
    """
    if (call.loopback or call.certificate) and not call.metadata.keys() & {"authorization", "x-api-key"} and cross_site(headers, origins):
        raise PermissionDeniedError("a web page of another origin called without a key; send `authorization: Bearer KEY`")


def raw_path(scope: Scope) -> str:
    """Returns the path as it came, percent-encoded.

    Raises:
        InvalidFieldError: It holds raw bytes that are not UTF-8.
    """
    try:
        raw: bytes = scope["raw_path"]
        return raw.partition(b"?")[0].decode()
    except UnicodeDecodeError as error:
        raise InvalidFieldError("path", "is not UTF-8; percent-encode UTF-8") from error


async def read_body(receive: Receive, headers: dict[str, str], *, limit: int) -> bytes:
    """Returns the whole body.

    Most clients look for a reply only once they have sent everything, so of a body that is too large some more is read and dropped.

    Raises:
        HttpError: It is larger than `limit` bytes, by its declared or its real length; 413.
        Disconnected: The client left.
    """
    declared = headers.get("content-length", "0")
    patience = limit if "expect" in headers else limit + _DROPPED_BYTES  # who asks first has not sent it
    if declared.isdecimal() and int(declared) > patience:
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        more = message.get("more_body", False)
        if size > limit:
            chunks.clear()
            if size > patience or not more:
                raise _too_large(limit)
            continue
        chunks.append(chunk)
        if not more:
            return _decoded(chunks[0] if len(chunks) == 1 else b"".join(chunks), headers, limit)


def _decoded(body: bytes, headers: dict[str, str], limit: int) -> bytes:
    coding = headers.get("content-encoding", "identity").strip().lower()
    if not body or coding == "identity":
        return body
    if coding not in CODINGS:
        message = f"content-encoding {coding[:40]!r} is not read; send gzip, deflate, or the body as it is"
        raise HttpError(415, InvalidArgumentError(message, header="content-encoding"))
    plain = inflate(body, coding, limit=limit)
    if plain is None:
        raise _too_large(limit)
    return plain


class Incoming:
    """`receive` of one request, which knows whether the body has come whole."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.whole = False

    async def __call__(self) -> MutableMapping[str, Any]:
        """Returns the next event."""
        event = await self._receive()
        self.whole = self.whole or not event.get("more_body", False)
        return event


async def linger(incoming: Incoming) -> None:
    """Reads and drops what a client still sends, for a while: a connection that is closed while it sends may lose the reply."""
    dropped = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            while not incoming.whole and dropped < _DROPPED_BYTES:
                dropped += len((await incoming()).get("body", b""))


async def read_lines(receive: Receive, *, limit: int) -> AsyncGenerator[bytes, None]:
    """Yields the body's lines as they come, less empty ones.

    Raises:
        HttpError: A line is larger than `limit` bytes; 413.
        Disconnected: The client left.
    """
    rest, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        more = message.get("more_body", False)
        *lines, rest = (rest + message.get("body", b"")).split(b"\n")
        for line in lines if more else [*lines, rest]:
            if len(line) > limit:
                raise _too_large(limit)
            if line and not line.isspace():
                yield line
        if len(rest) > limit:
            raise _too_large(limit)


def _too_large(limit: int) -> HttpError:
    error = InvalidArgumentError(f"the body is larger than {limit} bytes; send it in parts, or raise AISLE_MAX_MESSAGE_BYTES", limit=limit)
    return HttpError(413, error, connection="close")  # the rest is not read


def check_json(headers: dict[str, str]) -> None:
    """Refuses a body that does not say it is JSON. Browsers send JSON to another origin only after asking, which nothing here allows.

    Raises:
        HttpError: 415.
    """
    kind, _, parameters = headers.get("content-type", "").partition(";")
    kind = kind.strip().lower()
    charset = parameters.lower().partition("charset=")[2].strip(' "')
    if kind not in {"application/json", "text/json"} and not (kind.startswith("application/") and kind.endswith("+json")):
        message = f"content-type {kind[:80]!r} is not read; send JSON with `content-type: application/json`"
        raise HttpError(415, InvalidArgumentError(message, header="content-type"))
    if charset and charset not in {"utf-8", "utf8"}:
        raise HttpError(415, InvalidArgumentError(f"charset {charset[:40]!r} is not read; send UTF-8", header="content-type"))


def is_lines(content_type: str) -> bool:
    """Returns whether a body of the type is JSON by lines: a stream of requests."""
    return content_type.partition(";")[0].strip().lower() in _LINES


def check_lines(headers: dict[str, str]) -> None:
    """Refuses a stream of requests that does not say it is JSON by lines, or is encoded.

    Raises:
        HttpError: 415.
    """
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise HttpError(415, InvalidArgumentError("a stream of requests must come as it is", header="content-encoding"))
    if not is_lines(headers.get("content-type", "")):
        message = "this method takes a stream: send JSON, a message a line, as `content-type: application/x-ndjson`, or use a WebSocket"
        raise HttpError(415, InvalidArgumentError(message, header="content-type"))


def reply_headers(content_type: str, headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Returns headers as ASGI wants them, less what HTTP sets itself and what is no header."""
    listed = [(b"content-type", content_type.encode())] if content_type else []
    for name, value in headers.items():
        lower = name.lower()
        if lower not in _OWN_HEADERS and _HEADER.fullmatch(lower) and "\n" not in value and "\r" not in value:
            listed.append((lower.encode(), value.encode("latin-1", "replace")))
    return listed


async def send_reply(send: Send, reply: Reply, incoming: Incoming, *, head: bool) -> None:
    """Sends a whole reply; for HEAD without its body, yet with its length. Then waits a while for a client that still sends."""
    bare = not reply.content_type or reply.status in {204, 304}
    headers = reply_headers("" if bare else reply.content_type, reply.headers)
    if not bare:
        headers.insert(1, (b"content-length", str(len(reply.body)).encode()))
    if reply.headers.get("connection") == "close":
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else reply.body, "more_body": not incoming.whole})
    if not incoming.whole:
        await linger(incoming)
        await send({"type": "http.response.body", "body": b""})
