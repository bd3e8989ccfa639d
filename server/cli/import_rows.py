"""Rows of import files -> domain values. Every complaint names the field and what to write instead."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar

import orjson

from server.domain import Event, EventId, Item, ItemId, TenantId, UserId
from server.errors import InvalidFieldError
from server.store.users import User

_Id = TypeVar("_Id", bound=str)

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "items": (
        *("item_id", "title", "description", "categories", "attributes", "content_type"),
        *("price", "currency", "language", "available_from", "available_until"),
    ),
    "users": ("user_id", "traits", "locale", "time_zone", "event_date"),
    "events": ("user_id", "item_id", "event_type", "occurred_at", "event_id", "value", "session_id", "anonymous_id", "properties"),
}
"""Kind -> columns that are read."""

REQUIRED: Mapping[str, tuple[str, ...]] = {
    "items": ("item_id", "title"),
    "users": ("user_id",),
    "events": ("event_type", "occurred_at"),
}
"""Kind -> columns that a file must have."""

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_ID = re.compile(r"[^/\x00-\x1f\x7f\ud800-\udfff]{1,256}")
_EVENT_TYPE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_CONTENT_TYPE = re.compile(r"([a-z][a-z0-9_]{0,63})?")
_CURRENCY = re.compile(r"([A-Z]{3})?")
_NUMBER = re.compile(r"-?\d{1,15}(\.\d*)?([eE][+-]?\d{1,3})?")
_MAX_JSON_BYTES = 64 * 1024
_MAX_PROPERTIES_BYTES = 16 * 1024
_FUTURE = timedelta(hours=24)
_MILLISECONDS = 1e11
"""Seconds past this are the year 5138: the sender meant milliseconds."""


def item_of(row: Mapping[str, Any]) -> Item:
    """Returns the item that a row states.

    Raises:
        InvalidFieldError: A field is wrong.
    """
    title = _text(row, "title", limit=1000)
    if not title.strip():
        raise InvalidFieldError("title", "is missing; every item needs one")
    start, end = _time(row, "available_from"), _time(row, "available_until")
    if start is not None and end is not None and end <= start:
        raise InvalidFieldError("available_until", "must be after available_from")
    return Item(
        item_id=_id(row, "item_id", ItemId),
        title=title,
        description=_text(row, "description", limit=20_000),
        categories=_categories(row),
        attributes=_object(row, "attributes", limit_bytes=_MAX_JSON_BYTES),
        content_type=_matching(row, "content_type", _CONTENT_TYPE, "must be lower-case letters, digits and underscores"),
        price=_price(row),
        currency=_matching(row, "currency", _CURRENCY, "must be three capitals of ISO 4217, such as EUR"),
        language=_text(row, "language", limit=35),
        available_from=start,
        available_until=end,
    )


def user_of(row: Mapping[str, Any]) -> User:
    """Returns the user that a row states.

    Raises:
        InvalidFieldError: A field is wrong.
    """
    return User(
        user_id=_id(row, "user_id", UserId),
        traits=_object(row, "traits", limit_bytes=_MAX_JSON_BYTES),
        locale=_text(row, "locale", limit=35),
        time_zone=_text(row, "time_zone", limit=64),
        event_date=_time(row, "event_date"),
    )


class EventReader:
    """Rows -> events. Rows without event_id get one that a second import of the rows gets again.

    The derived id covers tenant, user, item, type, time, and the row's place among equal rows, so two equal rows of a file are two events
    and a file imported twice counts once. Remembering the rows seen takes about 75 bytes for each row without event_id.
    """

    def __init__(self, tenant_id: TenantId) -> None:
        self._tenant_id = tenant_id
        self._seen: set[int] = set()
        self._repeats: dict[int, int] = {}
        self._latest = datetime.now(UTC) + _FUTURE

    def __call__(self, row: Mapping[str, Any]) -> Event:
        """Returns the event that a row states.

        Raises:
            InvalidFieldError: A field is wrong.
        """
        anonymous_id = _id(row, "anonymous_id", str) if _given(row, "anonymous_id") else ""
        user_id = UserId("") if anonymous_id and not _given(row, "user_id") else _id(row, "user_id", UserId)
        item_id = _id(row, "item_id", ItemId) if _given(row, "item_id") else None
        event_type = _matching(row, "event_type", _EVENT_TYPE, "must be lower-case letters, digits and underscores, at most 64")
        occur_time = _time(row, "occurred_at")
        if occur_time is None:
            raise InvalidFieldError("occurred_at", "is missing; write RFC 3339 or seconds since 1970")
        if occur_time > self._latest:
            raise InvalidFieldError("occurred_at", "lies more than a day in the future")
        value = _number(row, "value")
        given_id = _text(row, "event_id", limit=128)
        return Event(
            event_id=EventId(given_id) or self._derived_id(user_id or anonymous_id, item_id, event_type, occur_time),
            user_id=user_id,
            item_id=item_id,
            event_type=event_type,
            occur_time=occur_time,
            value=1.0 if value is None else value,
            session_id=_text(row, "session_id", limit=128),
            anonymous_id=anonymous_id,
            properties=_object(row, "properties", limit_bytes=_MAX_PROPERTIES_BYTES),
        )

    def _derived_id(self, subject: str, item_id: ItemId | None, event_type: str, occur_time: datetime) -> EventId:
        fields = f"{self._tenant_id}\n{subject}\n{item_id or ''}\n{event_type}\n{occur_time.timestamp():.6f}"
        digest = hashlib.blake2b(fields.encode(), digest_size=16).digest()
        key = int.from_bytes(digest[:8], "big")
        place = 0
        if key in self._seen:
            place = self._repeats[key] = self._repeats.get(key, 0) + 1
        else:
            self._seen.add(key)
        return EventId(f"i-{digest.hex()}-{place}")


def _given(row: Mapping[str, Any], name: str) -> bool:
    value = row.get(name)
    return value is not None and value != ""


def _text(row: Mapping[str, Any], name: str, *, limit: int) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise InvalidFieldError(name, f"must be text, not {type(value).__name__}")
    if len(value) > limit:
        raise InvalidFieldError(name, f"has {len(value)} characters; at most {limit} are allowed")
    _check_characters(name, value)
    return value


def _check_characters(name: str, value: str) -> None:
    if _SURROGATE.search(value):
        raise InvalidFieldError(name, "is not UTF-8; save the file in UTF-8")
    found = _CONTROL.search(value)
    if found:
        raise InvalidFieldError(name, f"holds the control character U+{ord(found.group()):04X}; remove it")


def _id(row: Mapping[str, Any], name: str, kind: Callable[[str], _Id]) -> _Id:
    value = row.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None or value == "":
        raise InvalidFieldError(name, "is missing")
    if not isinstance(value, str):
        raise InvalidFieldError(name, f"must be text, not {type(value).__name__}")
    if not _ID.fullmatch(value):
        _check_characters(name, value)
        raise InvalidFieldError(name, f"must have 1 to 256 characters, without slash or line break; this has {len(value)}")
    return kind(value)


def _matching(row: Mapping[str, Any], name: str, pattern: re.Pattern[str], message: str) -> str:
    value = _text(row, name, limit=256)
    if not pattern.fullmatch(value):
        raise InvalidFieldError(name, f"{message}; this is {value[:64]!r}" if value else "is missing")
    return value


def _number(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InvalidFieldError(name, f"must be a number, not {type(value).__name__}")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise InvalidFieldError(name, f"{str(value)[:64]!r} is not a number; write it like 1234.50") from None
    if not math.isfinite(number):
        raise InvalidFieldError(name, "must be finite; leave it empty if it is not known")
    return number


def _price(row: Mapping[str, Any]) -> float | None:
    price = _number(row, "price")
    if price is not None and price < 0:
        raise InvalidFieldError("price", "must not be negative")
    return price


def _categories(row: Mapping[str, Any]) -> tuple[str, ...]:
    value = row.get("categories")
    if value is None:
        return ()
    if isinstance(value, str):
        value = _list_or_split(value) if value.startswith("[") else value.split("|")
    if not isinstance(value, list | tuple) or not all(isinstance(category, str) for category in value):
        raise InvalidFieldError("categories", "must be a list of texts, or texts separated by '|'")
    categories = tuple(dict.fromkeys(category.strip() for category in value if category.strip()))
    if len(categories) > 64 or any(len(category) > 200 for category in categories):
        raise InvalidFieldError("categories", "must be at most 64, of at most 200 characters each")
    for category in categories:
        _check_characters("categories", category)
    return categories


def _list_or_split(text: str) -> Any:
    """Returns the JSON list that the text is, or the text split at '|' if it is none: a category may begin with a bracket."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text.split("|")


def _object(row: Mapping[str, Any], name: str, *, limit_bytes: int) -> dict[str, Any]:
    value = row.get(name)
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        _check_characters(name, value)
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise InvalidFieldError(name, f"is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise InvalidFieldError(name, f"must be a JSON object, not {type(value).__name__}")
    try:
        content = orjson.dumps(value)
    except TypeError as error:
        raise InvalidFieldError(name, f"cannot be written as JSON ({error})") from None
    if len(content) > limit_bytes:
        raise InvalidFieldError(name, f"has {len(content)} bytes of JSON; at most {limit_bytes} are allowed")
    if b"\\u0000" in content and _holds_nul(value):
        raise InvalidFieldError(name, "holds the control character U+0000; remove it")
    return value


def _holds_nul(value: Any) -> bool:
    if isinstance(value, dict):
        return any("\0" in key or _holds_nul(inner) for key, inner in value.items())
    if isinstance(value, list):
        return any(_holds_nul(inner) for inner in value)
    return isinstance(value, str) and "\0" in value


def _time(row: Mapping[str, Any], name: str) -> datetime | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return _from_epoch(name, value)
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, date) and not isinstance(value, datetime):
            value = datetime(value.year, value.month, value.day, tzinfo=UTC)
        if isinstance(value, datetime):
            return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        message = f"{str(value)[:64]!r} is not a time; write RFC 3339, such as 2026-05-01T18:00:00Z, or seconds since 1970"
        raise InvalidFieldError(name, message) from None
    raise InvalidFieldError(name, f"must be a time, not {type(value).__name__}")


def _from_epoch(name: str, seconds: float) -> datetime:
    if not math.isfinite(seconds):
        raise InvalidFieldError(name, "must be finite")
    if abs(seconds) > _MILLISECONDS:
        raise InvalidFieldError(name, f"{seconds:.0f} is too large for seconds since 1970; divide milliseconds by 1000")
    return datetime.fromtimestamp(seconds, UTC)
