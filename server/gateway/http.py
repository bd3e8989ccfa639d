"""What HTTP requests carry besides their message: body, headers, deadline, peer. Bare ASGI."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from server.errors import InvalidArgumentError, InvalidFieldError, PermissionDeniedError
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
        "x-request-id",
        "traceparent",
        "tracestate",
        "user-agent",
        "accept-language",
    }
)
"""Headers that become metadata. Others do so behind the prefix, as in grpc-gateway."""
_PREFIX = "grpc-metadata-"
_OWN_HEADERS = frozenset({"content-length", "content-type", "transfer-encoding", "connection", "grpc-status", "grpc-message", "trailer"})
_REQUEST_ID_CHARS = 128
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_DROPPED_BYTES = 16 * 1024 * 1024
_HEADER = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")


class Disconnected(Exception):  # noqa: N818  # an event, not an error
    """The client went away before its request was whole."""


def headers_of(scope: Scope) -> dict[str, str]:
    """Returns the headers, names in lower case. Of a header sent twice the last counts."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def call_of(scope: Scope, headers: dict[str, str], *, method: str, default_timeout_s: float) -> Call:
    """Returns the call's circumstances. A request without a usable id gets one.

    Raises:
        InvalidFieldError: `grpc-timeout` is malformed.
    """
    metadata = {}
    for name, value in headers.items():
        if name in _METADATA:
            metadata[name] = value
        elif name.startswith(_PREFIX):
            metadata[name.removeprefix(_PREFIX)] = value
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
        response_metadata={"x-request-id": request_id},
    )


def _timeout_s(headers: dict[str, str], default_s: float) -> float:
    text = headers.get("grpc-timeout")
    if text is None:
        return default_s
    found = _TIMEOUT.fullmatch(text)
    if found is None:
        raise InvalidFieldError("grpc-timeout", f"must be up to 8 digits and one of H, M, S, m, u, n, such as '500m', not {text[:40]!r}")
    return int(found[1]) * _UNITS_S[found[2]]


def _is_loopback(scope: Scope, headers: dict[str, str]) -> bool:
    """Returns whether the caller is on this machine. One that came through a proxy is not, wherever the proxy is."""
    client = scope.get("client")
    if client is None or "x-forwarded-for" in headers or "forwarded" in headers:
        return False
    try:
        return ip_address(client[0]).is_loopback
    except ValueError:
        return False


def cross_site(headers: dict[str, str]) -> bool:
    """Returns whether a browser sent the request for a page of another origin. Other clients send none of these headers."""
    origin = headers.get("origin")
    own = origin is None or urlsplit(origin).netloc == headers.get("host")
    return headers.get("sec-fetch-site", "none") not in {"same-origin", "none"} or not own


def check_site(call: Call, headers: dict[str, str]) -> None:
    """Refuses what pages of other origins send with the browser of someone on this machine, whom it needs no key to be.

    Raises:
        PermissionDeniedError: The call comes from such a page and without a key.
    """
    if call.loopback and not call.metadata.keys() & {"authorization", "x-api-key"} and cross_site(headers):
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
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


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
    encoding = headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise HttpError(
            415, InvalidArgumentError(f"content-encoding {encoding!r} is not read; send the body as it is", header="content-encoding")
        )
    if kind not in {"application/json", "text/json"} and not (kind.startswith("application/") and kind.endswith("+json")):
        message = f"content-type {kind[:80]!r} is not read; send JSON with `content-type: application/json`"
        raise HttpError(415, InvalidArgumentError(message, header="content-type"))
    if charset and charset not in {"utf-8", "utf8"}:
        raise HttpError(415, InvalidArgumentError(f"charset {charset[:40]!r} is not read; send UTF-8", header="content-type"))


async def send_reply(send: Send, reply: Reply, *, head: bool) -> None:
    """Sends a whole reply; for HEAD without its body, yet with its length."""
    headers = [(b"content-type", reply.content_type.encode()), (b"content-length", str(len(reply.body)).encode())]
    if not reply.content_type or reply.status == 204:
        headers = []
    for name, value in reply.headers.items():
        lower = name.lower()
        if (
            lower not in _OWN_HEADERS
            and not lower.endswith("-bin")
            and _HEADER.fullmatch(lower)
            and "\n" not in value
            and "\r" not in value
        ):
            headers.append((lower.encode(), value.encode("latin-1", "replace")))
    if reply.headers.get("connection") == "close":
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else reply.body})
