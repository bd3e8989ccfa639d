"""What makes a whole reply fit for caches and narrow lines: validator, freshness, `Vary`, compression.

A reply to GET carries a weak `ETag` of its content and may be asked for again by `If-None-Match`. It is private unless its method was
declared cacheable. Errors and replies to other methods are never stored.

Source: RFC 9110 (8.8.3, 12.5.5, 13.1.2), RFC 9111 (5.2.2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from server.gateway.accept import takes_coding
from server.gateway.compression import MIN_BYTES, deflate
from server.gateway.replies import Reply
from server.interceptors.consistency import HEADER as TOKEN

VARY = ("accept-encoding", "accept-language", "authorization", "x-api-key", TOKEN)
"""Request headers on which any reply may depend."""

_UNSAFE_TO_SHARE = (TOKEN, "cookie")
_TEXTS = ("application/json", "text/", "application/x-ndjson", "application/xml", "image/svg+xml")


async def finish(reply: Reply, method: str, headers: Mapping[str, str], vary: str) -> Reply:
    """Returns the reply as it goes out.

    Args:
        reply: As the call gave it. `cache-control` and `etag` among its headers stay as they are.
        method: HTTP method.
        headers: Of the request.
        vary: Value of `Vary`.
    """
    added = {"cache-control": _cache_control(reply, method, headers)}
    if method in {"GET", "HEAD"} and reply.status == 200:  # OK
        added["vary"] = vary
        if "no-store" not in reply.headers.get("cache-control", ""):
            added["etag"] = reply.headers.get("etag") or f'W/"{hashlib.blake2b(reply.body, digest_size=12).hexdigest()}"'
            if _same(headers.get("if-none-match", ""), added["etag"]):
                return Reply(304, headers={**added, **reply.headers})
    body = reply.body
    if len(body) >= MIN_BYTES and reply.content_type.startswith(_TEXTS) and takes_coding(headers.get("accept-encoding", ""), "gzip"):
        body = await deflate(body)
        added["content-encoding"] = "gzip"
        added.setdefault("vary", "accept-encoding")
    return replace(reply, body=body, headers={**added, **reply.headers})


def _cache_control(reply: Reply, method: str, headers: Mapping[str, str]) -> str:
    if method not in {"GET", "HEAD"} or reply.status != 200:  # OK
        return "no-store"
    if reply.keep_s and not any(name in headers for name in _UNSAFE_TO_SHARE):
        return f"public, max-age={reply.keep_s}"
    return "private, no-cache"


def _same(listed: str, etag: str) -> bool:
    """Returns whether `If-None-Match` holds the tag, compared weakly."""
    tags = {tag.strip().removeprefix("W/") for tag in listed.split(",")}
    return "*" in tags or etag.removeprefix("W/") in tags
