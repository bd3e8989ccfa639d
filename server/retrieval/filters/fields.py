"""What may be filtered, and which values each field takes."""

from __future__ import annotations

import enum
import re
from datetime import UTC, datetime, timedelta

from server.retrieval.filters.syntax import EPOCH, Anything, Boolean, Moment, Number, Text, Value


class FieldKind(enum.Enum):
    """How a field's values compare."""

    TEXT = "text"
    NUMBER = "number"
    TIME = "time"
    TEXTS = "list of texts"
    DYNAMIC = "attribute"


FIELDS = {
    "item_id": FieldKind.TEXT,
    "title": FieldKind.TEXT,
    "categories": FieldKind.TEXTS,
    "price": FieldKind.NUMBER,
    "currency": FieldKind.TEXT,
    "language": FieldKind.TEXT,
    "content_type": FieldKind.TEXT,
    "available_from": FieldKind.TIME,
    "available_until": FieldKind.TIME,
    "create_time": FieldKind.TIME,
    "attributes": FieldKind.DYNAMIC,
}
"""Field of `Item` -> kind."""

_TIME = re.compile(r"\d{4}-\d{2}-\d{2}(?:[Tt]\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?(?:[Zz]|[+-]\d{2}:\d{2}))?", re.ASCII)
_ORDERED = frozenset({"<", "<=", ">", ">="})
_MICROSECOND = timedelta(microseconds=1)


def moment(text: str) -> Moment | None:
    """Returns the time that an RFC 3339 text or a plain date names, or None. Digits past microseconds are cut."""
    if not _TIME.fullmatch(text):
        return None
    text = re.sub(r"(\.\d{6})\d+", r"\1", text)
    try:
        value = datetime.fromisoformat(text.upper())
        return Moment(microseconds(value))
    except (ValueError, OverflowError):
        return None


def microseconds(value: datetime) -> int:
    """Returns microseconds since 1970 UTC. A time without a zone is taken as UTC."""
    aware = value if value.tzinfo else value.replace(tzinfo=UTC)
    return (aware - EPOCH) // _MICROSECOND


def fault(kind: FieldKind, operator: str, value: Value) -> str:
    """Returns what is wrong with comparing a field of this kind so, with the mend, or "" if nothing is."""
    faults = (
        (isinstance(value, Anything) and operator != ":", "'*' alone asks for presence; write field:*"),
        (
            kind is FieldKind.TEXTS and operator != ":",
            "a list has no single value to compare; write field:value (or NOT field:value)",
        ),
        (
            kind is FieldKind.NUMBER and not isinstance(value, Number | Anything),
            "this field holds a number; write one without quotes",
        ),
        (
            kind is FieldKind.TIME and not isinstance(value, Moment | Anything),
            'this field holds a time; write RFC 3339 in quotes, such as "2026-05-01T00:00:00Z"',
        ),
        (operator in _ORDERED and isinstance(value, Boolean), "true and false have no order; write = or !="),
        (
            operator in _ORDERED and isinstance(value, Text) and (value.open_start or value.open_end),
            "a wildcard has no order; write = or !=, or escape the star as \\*",
        ),
    )
    return next((message for wrong, message in faults if wrong), "")
