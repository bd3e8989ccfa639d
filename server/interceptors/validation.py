"""Checks a request against the rules in its proto."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from cachetools import LRUCache
from google.protobuf.message import Message
from protovalidate import Validator

from server.errors import InvalidFieldError
from server.interceptors.call import Call
from server.interceptors.chain import Handler

_validator = Validator()
_SMALL_BYTES = 512
_right: LRUCache[bytes, bool] = LRUCache(10_000)
"""Digests of small requests that broke no rule."""


def _path(violation: object) -> str:
    """Returns `items[3].title` for a violation: protovalidate's path elements joined."""
    parts: list[str] = []
    for element in violation.proto.field.elements:  # type: ignore[attr-defined]  # protovalidate ships no types
        name = element.field_name
        if element.subscript is not None:
            name += f"[{element.subscript.value!r}]"
        parts.append(name)
    return ".".join(parts)


def _violations(request: Message) -> Sequence[Any]:
    """Returns what is wrong with a request. Pages send the same small ones again and again, and checking costs 20 us.

    No rule asks the clock, so a request that was right still is. It is known by a digest: nothing that it says stays in memory.
    """
    if request.ByteSize() > _SMALL_BYTES:
        found: Sequence[Any] = _validator.collect_violations(request)
        return found
    seen = blake2b(request.DESCRIPTOR.full_name.encode() + b"\0" + request.SerializeToString(), digest_size=16).digest()
    if _right.get(seen):
        return ()
    found = _validator.collect_violations(request)
    if not found:
        _right[seen] = True
    return found


async def validate(call: Call, request: Message, handler: Handler) -> Message:
    """Refuses a request that breaks a rule, naming the first field that does.

    Raises:
        InvalidFieldError: A field breaks its rule.
    """
    violations = _violations(request)
    if violations:
        first = violations[0]
        more = f" ({len(violations) - 1} more fields are wrong)" if len(violations) > 1 else ""
        raise InvalidFieldError(_path(first) or "request", f"{first.proto.message}{more}")
    return await handler(call, request)
