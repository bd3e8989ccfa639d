"""JSON values to protobuf scalars. Each reader returns the value, or raises `MisfitError` saying what to send instead.

They accept what `google.protobuf.json_format` accepts, less what it accepts by accident of Python: `1_000`, blanks around a number, `inf`,
base64 with foreign characters, `true` for an enum.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import isinf
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from server.gateway.wellknown import read_bytes

Read = Callable[[Any], Any]

_INTEGER = re.compile(r"[+-]?[0-9]{1,400}")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_FLOAT_LIMIT = 3.4028235677973366e38  # rounds to infinity; the shortest text of the largest float, 3.4028235e38, lies below
_SPECIAL = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_BOOL_TEXTS = dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True) | dict.fromkeys(
    ("0", "f", "F", "FALSE", "false", "False"), False
)
"""What Go's `strconv.ParseBool` reads, and so grpc-gateway in queries and paths."""
_NAMES_SHOWN = 12


class MisfitError(Exception):
    """A value that does not fit. Gathers the path to it, innermost part first, on the way out."""

    def __init__(self, message: str, *path: str | int) -> None:
        super().__init__(message)
        self.message = message
        self.path: list[str | int] = list(path)

    def field(self, default: str) -> str:
        """Returns the path as `events[3].properties.price`, or `default` if it is the document itself."""
        text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in reversed(self.path))
        return text.removeprefix(".") or default


def shown(value: Any) -> str:
    """Returns a value as an error shows it: short, whatever was sent."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _integer(bits: int, *, signed: bool) -> Read:
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)

    def read(value: Any) -> int:
        if type(value) is not int:
            value = _whole(value)
        if low <= value <= high:
            return int(value)
        raise MisfitError(f"must be between {low} and {high}, not {shown(value)}")

    return read


def _whole(value: Any) -> int:
    if type(value) is str and _INTEGER.fullmatch(value):
        return int(value)
    number = float(value) if type(value) is str and _NUMBER.fullmatch(value) else value
    if type(number) is float and number.is_integer():
        return int(number)
    raise MisfitError(f"must be a whole number, not {shown(value)}")


def _double(value: Any) -> float:
    if type(value) is float:
        return value
    if type(value) is int:
        return float(value)
    if type(value) is str:
        if value in _SPECIAL:
            return _SPECIAL[value]
        if _NUMBER.fullmatch(value) and not isinf(number := float(value)):
            return number
    raise MisfitError(f'must be a number, or one of "NaN", "Infinity", "-Infinity", not {shown(value)}')


def _float(value: Any) -> float:
    number = _double(value)
    if -_FLOAT_LIMIT < number < _FLOAT_LIMIT or (type(value) is str and value in _SPECIAL):
        return number
    raise MisfitError(f"must fit a 32-bit float, not {shown(value)}")


def _bool(value: Any) -> bool:
    if type(value) is bool:
        return value
    raise MisfitError(f"must be true or false, without quotes, not {shown(value)}")


def _string(value: Any) -> str:
    if type(value) is str:
        return value
    raise MisfitError(f"must be a string, not {shown(value)}")


def _bytes(value: Any) -> bytes:
    if type(value) is str:
        try:
            return read_bytes(value)
        except ValueError:
            pass
    raise MisfitError(f"must be a base64 string, not {shown(value)}")


def _enum(descriptor: EnumDescriptor) -> Read:
    numbers = {name: value.number for name, value in descriptor.values_by_name.items()}
    known = set(numbers.values())
    names = list(numbers)
    listed = ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")

    def read(value: Any) -> int:
        if type(value) is str and value in numbers:
            return numbers[value]
        if type(value) in {int, float} or (type(value) is str and _INTEGER.fullmatch(value)):
            number = value if type(value) is int else _whole(value)
            if number in known or (not descriptor.is_closed and -(1 << 31) <= number < 1 << 31):
                return number
        raise MisfitError(f"must be one of {listed}, not {shown(value)}")

    return read


def _bool_key(value: str) -> bool:
    if value in {"true", "false"}:
        return value == "true"
    raise MisfitError(f"a key must be true or false, not {shown(value)}")


def _bool_text(value: str) -> bool:
    if value in _BOOL_TEXTS:
        return _BOOL_TEXTS[value]
    raise MisfitError(f"must be true or false, not {shown(value)}")


_READERS: dict[int, Read] = {
    FieldDescriptor.CPPTYPE_INT32: _integer(32, signed=True),
    FieldDescriptor.CPPTYPE_INT64: _integer(64, signed=True),
    FieldDescriptor.CPPTYPE_UINT32: _integer(32, signed=False),
    FieldDescriptor.CPPTYPE_UINT64: _integer(64, signed=False),
    FieldDescriptor.CPPTYPE_DOUBLE: _double,
    FieldDescriptor.CPPTYPE_FLOAT: _float,
    FieldDescriptor.CPPTYPE_BOOL: _bool,
    FieldDescriptor.CPPTYPE_STRING: _string,
}


def reader(field: FieldDescriptor) -> Read:
    """Returns the reader of one value of a scalar or enum field."""
    if field.enum_type is not None:
        return _enum(field.enum_type)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _bytes
    return _READERS[field.cpp_type]


def key_reader(field: FieldDescriptor) -> Read:
    """Returns the reader of a map's keys, which JSON always writes as strings."""
    return _bool_key if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL else _READERS[field.cpp_type]


def text_reader(field: FieldDescriptor) -> Read:
    """Returns the reader of a value that came as text: a path variable or a query parameter."""
    return _bool_text if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL else reader(field)
