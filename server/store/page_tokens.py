"""Opaque page tokens, bound to the arguments of the list they continue (AIP-158)."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping

import orjson

from server.errors import InvalidFieldError

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
_CHECK_BYTES = 8


def page_limit(page_size: int) -> int:
    """Returns the rows of a page: 50 for 0, at most 1000.

    Raises:
        InvalidFieldError: `page_size` is negative.
    """
    if page_size < 0:
        raise InvalidFieldError("page_size", "must not be negative; 0 asks for the default of 50")
    return min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def encode_page_token(last: str, arguments: Mapping[str, str]) -> str:
    """Returns the url-safe token of the page that starts after the row `last`."""
    position = last.encode()
    return base64.urlsafe_b64encode(_check(position, arguments) + position).decode().rstrip("=")


def decode_page_token(token: str, arguments: Mapping[str, str]) -> str:
    """Returns the row after which the token's page starts; the empty string, before every row, for an empty token.

    The check value guards against mixed-up and mangled tokens. It is no secret: row-level security, not the token, decides what is seen.

    Raises:
        InvalidFieldError: The token is not one that a call with the same arguments returned.
    """
    if not token:
        return ""
    try:
        last = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))[_CHECK_BYTES:].decode()
    except (binascii.Error, ValueError):
        last = ""
    if not last or token != encode_page_token(last, arguments):
        raise InvalidFieldError(
            "page_token", "is not one that the same request returned; send it back unchanged, or leave it out to start anew"
        )
    return last


def _check(position: bytes, arguments: Mapping[str, str]) -> bytes:
    return hashlib.sha256(orjson.dumps(dict(arguments), option=orjson.OPT_SORT_KEYS) + b"\0" + position).digest()[:_CHECK_BYTES]
