"""Checks a request against the rules in its proto."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from google.protobuf.message import Message
from protovalidate import Validator

from server.errors import InvalidFieldError
from server.interceptors.call import Call
from server.interceptors.chain import Handler

_validator = Validator()
_SMALL_BYTES = 512


def _path(violation: object) -> str:
    """Returns `items[3].title` for a violation: protovalidate's path elements joined."""
    parts: list[str] = []
    for element in violation.proto.field.elements:  # type: ignore[attr-defined]  # protovalidate ships no types
        name = element.field_name
        if element.subscript is not None:
            name += f"[{element.subscript.value!r}]"
        parts.append(name)
    return ".".join(parts)


@lru_cache(maxsize=10_000)
def _small_violations(kind: type[Message], content: bytes) -> Sequence[Any]:
    """Returns what is wrong with a request. No rule asks the clock, so what was found of the same bytes still holds."""
    found: Sequence[Any] = _validator.collect_violations(kind.FromString(content))
    return found


def _violations(request: Message) -> Sequence[Any]:
    """Returns what is wrong with a request. Pages send the same small ones again and again, and checking costs 20 us."""
    if request.ByteSize() <= _SMALL_BYTES:
        return _small_violations(type(request), request.SerializeToString())  # type: ignore[arg-type]  # the stubs' classes have no hash
    found: Sequence[Any] = _validator.collect_violations(request)
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
