"""Bodies compressed and inflated, with a bound on what comes out."""

from __future__ import annotations

import asyncio
import gzip
import zlib

from server.errors import InvalidFieldError

CODINGS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""Content codings that are read -> zlib's window bits, which tell the container. RFC 9110 calls the zlib container `deflate`."""

MIN_BYTES = 4096
"""Smaller bodies go out as they are: they fill few packets."""

_LEVEL = 1  # JSON shrinks to 110 % of what level 6 makes of it, in a third of the time
_ASIDE_BYTES = 256 * 1024


def inflate(body: bytes, coding: str, *, limit: int) -> bytes | None:
    """Returns the plain body, or None if it would be larger than `limit` bytes. It is never inflated further than that.

    Raises:
        InvalidFieldError: The body is not what `coding` says, or something follows it.
    """
    inflater = zlib.decompressobj(CODINGS[coding])
    try:
        plain = inflater.decompress(body, limit + 1)
    except zlib.error:
        raise InvalidFieldError("body", f"is not {coding}, as content-encoding says") from None
    if len(plain) > limit:
        return None
    if not inflater.eof or inflater.unused_data:
        raise InvalidFieldError("body", f"is not one whole {coding} stream; send it again")
    return plain


async def deflate(body: bytes) -> bytes:
    """Returns the body as gzip. A large one is compressed beside the event loop."""
    if len(body) < _ASIDE_BYTES:
        return gzip.compress(body, _LEVEL, mtime=0)
    return await asyncio.to_thread(gzip.compress, body, _LEVEL, mtime=0)
