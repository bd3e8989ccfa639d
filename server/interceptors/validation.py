"""Checks a request against the rules in its proto."""

from __future__ import annotations

from google.protobuf.message import Message
from protovalidate import Validator

from server.errors import InvalidFieldError
from server.interceptors.call import Call
from server.interceptors.chain import Handler

_validator = Validator()


def _path(violation: object) -> str:
    """Returns `items[3].title` for a violation: protovalidate's path elements joined."""
    parts: list[str] = []
    for element in violation.proto.field.elements:  # type: ignore[attr-defined]  # protovalidate ships no types
        name = element.field_name
        if element.subscript is not None:
            name += f"[{element.subscript.value!r}]"
        parts.append(name)
    return ".".join(parts)


async def validate(call: Call, request: Message, handler: Handler) -> Message:
    """Refuses a request that breaks a rule, naming the first field that does.

    Raises:
        InvalidFieldError: A field breaks its rule.
    """
    violations = _validator.collect_violations(request)
    if violations:
        first = violations[0]
        more = f" ({len(violations) - 1} more fields are wrong)" if len(violations) > 1 else ""
        raise InvalidFieldError(_path(first) or "request", f"{first.proto.message}{more}")
    return await handler(call, request)
