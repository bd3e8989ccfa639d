"""JSON forms of the well-known values that are text: times, durations, field masks, bytes, special floats.

Timestamps go the fast way when they look as most do; the library's own parser decides the rest, so both agree by construction.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import lru_cache
from math import copysign
from typing import Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_S = -62135596800  # 0001-01-01T00:00:00Z
_LAST_S = 253402300799  # 9999-12-31T23:59:59Z
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_DAY_S = 86400


class SecondsAndNanos(Protocol):
    """A `Timestamp` or `Duration`, of any descriptor pool."""

    seconds: int
    nanos: int


class TextForm(SecondsAndNanos, Protocol):
    """A well-known message with the library's own text form."""

    def ToJsonString(self) -> str:  # noqa: N802  # the library's name
        """Returns the text form."""
        ...

    def FromJsonString(self, value: str) -> None:  # noqa: N802  # the library's name
        """Reads the text form."""
        ...


@lru_cache(maxsize=8192)
def _until_seconds(seconds: int) -> str:
    """Returns RFC 3339 up to the whole second. Kept, since the times of a reply are often the same few."""
    if not _FIRST_S <= seconds <= _LAST_S:
        raise ValueError(f"a Timestamp of {seconds} seconds is outside the years 1 to 9999")
    days, rest = divmod(seconds, _DAY_S)
    minutes, second = divmod(rest, 60)
    hour, minute = divmod(minutes, 60)
    return f"{date.fromordinal(days + _EPOCH_DAY).isoformat()}T{hour:02d}:{minute:02d}:{second:02d}"


def timestamp_text(message: SecondsAndNanos) -> str:
    """Returns RFC 3339 in UTC, with 0, 3, 6 or 9 digits of fraction, as the JSON mapping asks.

    Raises:
        ValueError: The time is outside the years 1 to 9999.
    """
    text = _until_seconds(message.seconds)
    nanos = message.nanos
    if nanos == 0:
        return f"{text}Z"
    if not 0 < nanos < 1_000_000_000:
        raise ValueError(f"a Timestamp of {nanos} nanoseconds is outside its second")
    if nanos % 1_000_000 == 0:
        return f"{text}.{nanos // 1_000_000:03d}Z"
    if nanos % 1_000 == 0:
        return f"{text}.{nanos // 1_000:06d}Z"
    return f"{text}.{nanos:09d}Z"


def read_timestamp(message: TextForm, text: str) -> None:
    """Sets `message` from RFC 3339 text.

    Raises:
        ValueError: `text` is not RFC 3339, or outside the years 1 to 9999.
    """
    if len(text) in {20, 24, 27} and text[10] == "T" and text[-1] == "Z" and text[7] == "-" and text[19] in ".Z" and text.isascii():
        try:
            since = datetime.fromisoformat(text) - _EPOCH
        except ValueError:
            pass
        else:
            message.seconds = since.days * _DAY_S + since.seconds
            message.nanos = since.microseconds * 1000
            return
    message.FromJsonString(text)


def library_text(message: TextForm) -> str:
    """Returns the library's text form of a Duration or FieldMask."""
    return message.ToJsonString()


def read_library_text(message: TextForm, text: str) -> None:
    """Sets a Duration or FieldMask from its text form."""
    message.FromJsonString(text)


def bytes_text(value: bytes) -> str:
    """Returns standard base64 with padding."""
    return binascii.b2a_base64(value, newline=False).decode("ascii")


def read_bytes(text: str) -> bytes:
    """Returns the bytes of standard or URL-safe base64, padded or not.

    Raises:
        ValueError: A character is outside the alphabet, or the length is impossible.
    """
    if "-" in text or "_" in text:
        text = text.replace("-", "+").replace("_", "/")
    text = text.rstrip("=")
    return binascii.a2b_base64(text.encode("ascii") + b"=" * (-len(text) % 4), strict_mode=True)


def special_float(value: float) -> str:
    """Returns the JSON text of NaN and the infinities, which JSON numbers cannot hold."""
    if value != value:  # noqa: PLR0124  # only NaN differs from itself
        return "NaN"
    return "Infinity" if copysign(1.0, value) > 0 else "-Infinity"


TEXT_ENCODERS: dict[str, Callable[[TextForm], str]] = {
    "google.protobuf.Timestamp": timestamp_text,
    "google.protobuf.Duration": library_text,
    "google.protobuf.FieldMask": library_text,
}
TEXT_DECODERS: dict[str, Callable[[TextForm, str], None]] = {
    "google.protobuf.Timestamp": read_timestamp,
    "google.protobuf.Duration": read_library_text,
    "google.protobuf.FieldMask": read_library_text,
}
TEXT_EXAMPLES = {
    "google.protobuf.Timestamp": "an RFC 3339 time such as '2026-05-01T12:00:00Z'",
    "google.protobuf.Duration": "seconds with an 's', such as '1.5s'",
    "google.protobuf.FieldMask": "field names separated by commas, such as 'title,priceRange'",
}
WRAPPERS = frozenset(
    f"google.protobuf.{kind}Value" for kind in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)
