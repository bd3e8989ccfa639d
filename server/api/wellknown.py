"""Resource names, times, objects and masks: what every servicer converts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from server.domain import ItemId, UserId
from server.errors import InvalidFieldError

_EXACT_INTEGERS = 2.0**53


def user_id_of(name: str) -> UserId:
    """Returns ID of a checked `users/ID` or `users/ID/profile`."""
    return UserId(name.split("/")[1])


def item_id_of(name: str) -> ItemId:
    """Returns ID of a checked `items/ID`."""
    return ItemId(name.removeprefix("items/"))


def to_datetime(stamp: Timestamp, field: str) -> datetime:
    """Returns the time, in UTC.

    Raises:
        InvalidFieldError: It is outside the years 1 to 9999.
    """
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidFieldError(field, "is not a time between the years 1 and 9999") from error


def optional_datetime(message: Message, field: str) -> datetime | None:
    """Returns the time in a field, or None if it is absent."""
    return to_datetime(getattr(message, field), field) if message.HasField(field) else None


def to_timestamp(moment: datetime) -> Timestamp:
    """Returns the protobuf form of an aware time."""
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def to_dict(struct: Struct) -> dict[str, Any]:
    """Returns a JSON object; whole numbers are ints."""
    return {key: _to_python(value) for key, value in struct.fields.items()}


def _to_python(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return to_dict(value.struct_value)
    if kind == "list_value":
        return [_to_python(element) for element in value.list_value.values]
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() and abs(number) < _EXACT_INTEGERS else number
    return None if kind in {None, "null_value"} else getattr(value, str(kind))


def to_struct(content: Mapping[str, Any]) -> Struct:
    """Returns the protobuf form of a JSON object."""
    return Struct(fields={key: _to_value(value) for key, value in content.items()})


def _to_value(value: Any) -> Value:
    if value is None:
        return Value(null_value=0)  # type: ignore[arg-type]  # the stubs want the enum's wrapper
    if isinstance(value, bool):
        return Value(bool_value=value)
    if isinstance(value, int | float):
        return Value(number_value=value)
    if isinstance(value, Mapping):
        return Value(struct_value=to_struct(value))
    if isinstance(value, list | tuple):
        return Value(list_value=ListValue(values=[_to_value(element) for element in value]))
    return Value(string_value=str(value))


def check_text(text: str, field: str) -> str:
    """Returns the text.

    Raises:
        InvalidFieldError: It holds U+0000, which the database cannot store.
    """
    if "\0" in text:
        raise InvalidFieldError(field, "holds the character U+0000, which is not text; leave it out")
    return text


def check_json(struct: Struct, field: str) -> dict[str, Any]:
    """Returns the JSON object.

    Raises:
        InvalidFieldError: A number in it is NaN or infinite, which JSON cannot hold, or a string holds U+0000.
    """
    content = to_dict(struct)
    for leaf in _leaves(content):
        if isinstance(leaf, str):
            check_text(leaf, field)
        elif isinstance(leaf, float) and not math.isfinite(leaf):
            raise InvalidFieldError(field, "holds a number that is NaN or infinite; leave it out")
    return content


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from value
        value = value.values()
    elif not isinstance(value, list):
        yield value
        return
    for element in value:
        yield from _leaves(element)


def masked_fields(mask: FieldMask, resource: Message, writable: Iterable[str]) -> set[str]:
    """Returns the fields that an update changes: AIP-134.

    Without a mask, those that are set; with `*`, all that callers may write. Fields that only we write are ignored.

    Raises:
        InvalidFieldError: The mask names something that is no field of the resource.
    """
    allowed = set(writable)
    if not mask.paths:
        return {field.name for field, _ in resource.ListFields()} & allowed
    if list(mask.paths) == ["*"]:
        return allowed
    for path in mask.paths:
        if path not in resource.DESCRIPTOR.fields_by_name:
            message = f"{path!r} is not a field of {resource.DESCRIPTOR.name}; name whole fields, such as {min(allowed)!r}"
            raise InvalidFieldError("update_mask", message, path=path)
    return set(mask.paths) & allowed
