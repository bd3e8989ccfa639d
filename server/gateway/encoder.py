"""Protobuf messages to JSON values, by functions written out for each message type.

`google.protobuf.json_format` walks descriptors for every message. Here the walk happens once a type: it writes the Python function that a
person would write by hand for that type, and compiles it, which is worth a factor of about ten. A type

    message Item { string title = 1; optional int64 count = 2; repeated Reason reasons = 3; }

becomes

    def encode_7(m, cell):
        out = {}
        v = m.title
        if v: out['title'] = v
        if m.HasField('count'):
            v = m.count
            out['count'] = str(v)
        v = m.reasons
        if v: out['reasons'] = [encode_8(x, cell) for x in v[:]]
        return out

`v[:]` because upb's repeated fields iterate by index until an error; a slice is one call. `cell` is a float32 array of one element, through
which a `float` gets its shortest decimal form; it belongs to one call, so threads may encode at once.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable
from math import copysign, isfinite
from typing import Any, cast

import numpy as np
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message

from server.gateway.wellknown import TEXT_ENCODERS, WRAPPERS, bytes_text, special_float

Encode = Callable[[Any, Any], Any]

_LONG = {
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_SINT64,
    FieldDescriptor.TYPE_FIXED64,
    FieldDescriptor.TYPE_SFIXED64,
}


_TEXTS = {full_name: f"text_{full_name.rpartition('.')[2]}" for full_name in TEXT_ENCODERS}
"""Well-known types that are text -> the name of their function in written code."""


class EncodeError(ValueError):
    """A message has no JSON form: an `Any` of an unknown type, a time outside its range, NaN in a `Value`."""


def descriptor_of(message: Message) -> Descriptor:
    """Returns the message's type. The stubs allow for upb's own class, which is not one for type checkers."""
    return cast("Descriptor", message.DESCRIPTOR)


def is_map(field: FieldDescriptor) -> bool:
    """Returns whether the field is a map."""
    return field.message_type is not None and field.message_type.has_options and field.message_type.GetOptions().map_entry


def _floats(values: Any, _cell: Any) -> Any:
    """Returns a repeated `float` as an array, which orjson writes in shortest float32 form, or as a list if a value is not finite."""
    array = np.array(values[:], dtype=np.float32)
    if np.isfinite(array).all():
        return array
    return [value if isfinite(value) else special_float(float(value)) for value in array]


def _short(value: float, cell: Any) -> Any:
    if not isfinite(value):
        return special_float(value)
    cell[0] = value
    return cell[0]


def _extensions(message: Message, out: dict[str, Any], cell: Any, encoder: Encoder) -> None:
    for field, value in message.ListFields():
        if field.is_extension:
            out[f"[{field.full_name}]"] = encoder.field_function(field)(value, cell)


def _key(key: Any) -> str:
    if key is True:
        return "true"
    return "false" if key is False else str(key)


class Encoder:
    """Compiles and holds the functions. One instance a process is enough; types are added as they are met."""

    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool
        self._names: dict[str, str] = {}
        self._fields: dict[str, Encode] = {}
        self._enums: dict[str, str] = {}
        self._globals: dict[str, Any] = {
            "bytes_text": bytes_text,
            "copysign": copysign,
            "extensions": _extensions,
            "floats": _floats,
            "key": _key,
            "self": self,
            "short": _short,
            "special": special_float,
            **{name: TEXT_ENCODERS[full_name] for full_name, name in _TEXTS.items()},
        }

    def function(self, descriptor: Descriptor) -> Encode:
        """Returns the function that turns messages of this type into JSON values, given a float32 cell."""
        function: Encode = self._globals[self._name(descriptor)]
        return function

    def field_function(self, field: FieldDescriptor) -> Encode:
        """Returns the function that turns a field's value into a JSON value. For extensions and `response_body`."""
        if field.full_name not in self._fields:
            name = f"encode_field_{len(self._fields)}"
            self._run(f"def {name}(v, cell):\n    return {self._value(field, 'v')}")
            self._fields[field.full_name] = self._globals[name]
        return self._fields[field.full_name]

    def _name(self, descriptor: Descriptor) -> str:
        full_name = descriptor.full_name
        if full_name in self._names:
            return self._names[full_name]
        name = self._names[full_name] = f"encode_{len(self._names)}"
        special = self._well_known(full_name, descriptor)
        if special is None:
            self._run(self._source(name, descriptor))
        else:
            self._globals[name] = special
        return name

    def _run(self, source: str) -> None:
        # Only names from descriptors enter the source, which protobuf holds to identifiers, and JSON names, by repr().
        exec(compile(source, "<json encoder>", "exec"), self._globals)  # noqa: S102

    def _well_known(self, full_name: str, descriptor: Descriptor) -> Encode | None:
        if full_name in TEXT_ENCODERS:
            text = TEXT_ENCODERS[full_name]
            return lambda message, _cell: text(message)
        if full_name in WRAPPERS:
            inner = self.field_function(descriptor.fields_by_name["value"])
            return lambda message, cell: inner(message.value, cell)
        return {
            "google.protobuf.Any": self._any,
            "google.protobuf.Struct": self._struct,
            "google.protobuf.ListValue": self._list,
            "google.protobuf.Value": self._json_value,
        }.get(full_name)

    def _source(self, name: str, descriptor: Descriptor) -> str:
        lines = [f"def {name}(m, cell):", "    out = {}"]
        for field in sorted(descriptor.fields, key=lambda one: one.number):
            lines += self._field_lines(field)
        if descriptor.is_extendable:
            lines.append("    extensions(m, out, cell, self)")
        lines.append("    return out")
        return "\n".join(lines)

    def _field_lines(self, field: FieldDescriptor) -> list[str]:
        read = f"getattr(m, {field.name!r})" if keyword.iskeyword(field.name) else f"m.{field.name}"
        key = f"out[{field.json_name!r}]"
        if field.type == FieldDescriptor.TYPE_FLOAT and not field.is_repeated:
            stores = ["if v - v == 0.0:", "    cell[0] = v", f"    {key} = cell[0]", "else:", f"    {key} = special(v)"]
        else:
            stores = [f"{key} = {self._value(field, 'v')}"]
        body = [f"        {line}" for line in stores]
        present = f"m.HasField({field.name!r})"
        if field.has_presence and (field.message_type is not None or field.default_value):
            return [f"    if {present}:", f"        v = {read}", *body]
        if field.has_presence:  # what is not zero is set, which costs less to see
            return [f"    v = {read}", f"    if v or {present}:", *body]
        test = "v"
        if not field.is_repeated and field.cpp_type in {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}:
            test = "v or copysign(1.0, v) < 0"  # -0.0 is set, though false
        return [f"    v = {read}", f"    if {test}:", *body]

    def _value(self, field: FieldDescriptor, name: str) -> str:
        """Returns the expression of a whole field: map, list or single value."""
        if is_map(field):
            assert field.message_type is not None
            value = field.message_type.fields_by_name["value"]
            # By key: upb's maps take items() from a Python mix-in that is several times slower.
            return f"{{key(k): {self._single(value, f'{name}[k]')} for k in {name}}}"
        if not field.is_repeated:
            return self._single(field, name)
        if field.type == FieldDescriptor.TYPE_FLOAT:
            return f"floats({name}, cell)"
        single = self._single(field, "x")
        return f"{name}[:]" if single == "x" else f"[{single} for x in {name}[:]]"

    def _single(self, field: FieldDescriptor, name: str) -> str:  # noqa: PLR0911  # one a kind
        """Returns the expression of one value of the field's type."""
        if field.message_type is not None:
            full_name = field.message_type.full_name
            return f"{_TEXTS[full_name]}({name})" if full_name in _TEXTS else f"{self._name(field.message_type)}({name}, cell)"
        if field.enum_type is not None:
            return self._enum(field.enum_type, name)
        if field.type in _LONG:
            return f"str({name})"
        if field.type == FieldDescriptor.TYPE_BYTES:
            return f"bytes_text({name})"
        if field.type == FieldDescriptor.TYPE_DOUBLE:
            return f"{name} if {name} - {name} == 0.0 else special({name})"  # quicker than isfinite()
        if field.type == FieldDescriptor.TYPE_FLOAT:
            return f"short({name}, cell)"
        return name

    def _enum(self, descriptor: EnumDescriptor, name: str) -> str:
        if descriptor.full_name == "google.protobuf.NullValue":
            return "None"
        if descriptor.full_name not in self._enums:
            table = self._enums[descriptor.full_name] = f"enum_{len(self._enums)}"
            self._globals[table] = {number: value.name for number, value in descriptor.values_by_number.items()}
        return f"{self._enums[descriptor.full_name]}.get({name}, {name})"

    def _any(self, message: Any, cell: Any) -> Any:
        if not message.ListFields():
            return {}
        try:
            descriptor = self._pool.FindMessageTypeByName(message.type_url.rsplit("/", 1)[-1])
        except KeyError as error:
            raise EncodeError(f"an Any holds {message.type_url!r}, a type this server does not know") from error
        inner = message_factory.GetMessageClass(descriptor)()
        try:
            inner.ParseFromString(message.value)
        except DecodeError as error:
            raise EncodeError(f"an Any of {message.type_url!r} holds bytes that do not parse") from error
        value = self.function(descriptor)(inner, cell)
        if descriptor.full_name in WHOLE:
            return {"@type": message.type_url, "value": value}
        return {"@type": message.type_url, **value}

    def _struct(self, message: Any, cell: Any) -> Any:
        fields = message.fields
        return {name: self._json_value(fields[name], cell) for name in fields}

    def _list(self, message: Any, cell: Any) -> Any:
        return [self._json_value(value, cell) for value in message.values[:]]

    def _json_value(self, message: Any, cell: Any) -> Any:
        kind = message.WhichOneof("kind")
        if kind == "string_value":
            return message.string_value
        if kind == "number_value":
            number = message.number_value
            if not isfinite(number):
                raise EncodeError(f"a google.protobuf.Value holds {special_float(number)}, which JSON cannot say")
            return number
        if kind == "bool_value":
            return message.bool_value
        if kind == "struct_value":
            return self._struct(message.struct_value, cell)
        return self._list(message.list_value, cell) if kind == "list_value" else None


WHOLE = WRAPPERS | set(TEXT_ENCODERS) | {f"google.protobuf.{kind}" for kind in ("Any", "Struct", "Value", "ListValue")}
"""Types whose JSON form is not an object of their fields: inside an `Any` they stand under `value`."""
