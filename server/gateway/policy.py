"""What an HTTP door lets through, and for how long others may keep its replies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from server.errors import InvalidArgumentError


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Options of a door. Names of headers are in lower case."""

    request_headers: frozenset[str] = frozenset()
    """Headers that become metadata under their own name, beside those that always do."""
    reply_headers: frozenset[str] = frozenset()
    """Metadata of an upstream's replies that become headers under their own name, beside those that always do."""
    origins: frozenset[str] = frozenset()
    """Origins whose pages may call, such as `https://shop.example`. `*` stands for all, which then need a key."""
    max_age_s: Mapping[str, int] = field(default_factory=dict)
    """Method -> seconds for which caches may keep its replies and give them to others who send the same credentials."""


def read_origins(texts: Iterable[str]) -> frozenset[str]:
    """Returns origins. Empty ones are left out.

    Raises:
        InvalidArgumentError: One is not an origin as browsers send it: scheme, host and perhaps port, without a path.
    """
    origins = frozenset(text.strip() for text in texts if text.strip())
    for origin in origins - {"*"}:
        parts = urlsplit(origin)
        if f"{parts.scheme}://{parts.netloc}" != origin or not parts.netloc or origin != origin.lower():
            raise InvalidArgumentError(f"{origin!r} is not an origin; write it as browsers send it, such as https://shop.example")
    return origins


def read_max_ages(texts: Iterable[str], methods: Iterable[str]) -> dict[str, int]:
    """Returns method -> seconds of entries such as `library.v1.Library/GetBook=60`. Empty ones are left out.

    Raises:
        InvalidArgumentError: An entry is malformed, or names no method of `methods`.
    """
    known = set(methods)
    ages: dict[str, int] = {}
    for text in (one for one in texts if one.strip()):
        name, _, seconds = text.strip().partition("=")
        method = f"/{name.strip().lstrip('/')}"
        if method not in known:
            raise InvalidArgumentError(f"{text!r} names no method that is served here; write package.Service/Method=SECONDS")
        if not (seconds.isascii() and seconds.isdecimal() and int(seconds) <= 31_536_000):
            raise InvalidArgumentError(f"{text!r} must end in whole seconds, at most a year of 31536000")
        ages[method] = int(seconds)
    return ages
