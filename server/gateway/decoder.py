"""JSON values to protobuf messages, by functions put together once for each message type.

Errors name the path as the caller wrote it, such as `events[3].occurTime`. The path is gathered while the error leaves, so that a correct
message pays nothing for it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from math import isfinite
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import EncodeError as ProtoEncodeError
from google.protobuf.message import Message

from server.gateway.encoder import WHOLE, descriptor_of, is_map
from server.gateway.fastpath import GIVES_UP, FastPath
from server.gateway.scalars import MisfitError, key_reader, reader, shown
from server.gateway.wellknown import TEXT_DECODERS, TEXT_EXAMPLES, WRAPPERS

MAX_DEPTH = 100
"""Messages inside messages. What protobuf parsers accept by default: a deeper message could not be sent on."""

Decode = Callable[[Any, Any, int], None]
"""(JSON value, message to fill, depth)."""


class Decoder:
    """Builds and holds the functions. One instance a process is enough; types are added as they are met."""

    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool
        self._functions: dict[str, Decode] = {}
        self._fast = FastPath(self, max_depth=MAX_DEPTH)

    def prepare(self, descriptor: Descriptor) -> None:
        """Compiles the fast path of a type and of the types it holds."""
        if descriptor.full_name not in WHOLE:
            self._fast.function(descriptor)

    def fill(self, value: Any, message: Message) -> None:
        """Fills a fresh message from a JSON value.

        Raises:
            MisfitError: The value does not fit.
        """
        descriptor = descriptor_of(message)
        if type(value) is dict and descriptor.full_name not in WHOLE:
            try:
                self._fast.function(descriptor)(value, message, 1)
            except GIVES_UP:
                message.Clear()
            else:
                return
        self.function(descriptor)(value, message, 1)

    def fill_field(self, value: Any, message: Message, field: FieldDescriptor) -> None:
        """Fills one unset field of a message from its JSON value. Raises as `fill`, with paths from `message`."""
        try:
            if field.message_type is None or field.is_repeated or value is None:
                self.field_function(field)(value, message, 1)
                return
            child = getattr(message, field.name)
            child.SetInParent()
            self.fill(value, child)
        except MisfitError as misfit:
            misfit.path.append(field.json_name)
            raise

    def function(self, descriptor: Descriptor) -> Decode:
        """Returns the function that fills a fresh message of this type. It raises `MisfitError`."""
        full_name = descriptor.full_name
        if full_name not in self._functions:
            # Fields ask for their types when first met in a request, so recursive types need no care.
            self._functions[full_name] = self._well_known(descriptor) or self._object(descriptor)
        return self._functions[full_name]

    def _well_known(self, descriptor: Descriptor) -> Decode | None:
        full_name = descriptor.full_name
        if full_name in TEXT_DECODERS:
            return _text(full_name)
        if full_name in WRAPPERS:
            read = reader(descriptor.fields_by_name["value"])
            return lambda value, message, _depth: setattr(message, "value", read(value))
        return {
            "google.protobuf.Any": self._any,
            "google.protobuf.Struct": _struct,
            "google.protobuf.ListValue": _list,
            "google.protobuf.Value": _json_value,
        }.get(full_name)

    def _object(self, descriptor: Descriptor) -> Decode:
        steps: dict[str, tuple[Decode, str | None]] = {}
        for field in descriptor.fields:
            steps[field.name] = (self.field_function(field), field.json_name if field.json_name != field.name else None)
        for field in descriptor.fields:  # last, as json_format lets a JSON name win over another field's proto name
            steps[field.json_name] = (self.field_function(field), None)

        def decode(value: Any, message: Any, depth: int) -> None:
            if type(value) is not dict:
                raise MisfitError(f"must be an object, not {shown(value)}")
            if depth > MAX_DEPTH:
                raise MisfitError(f"is nested deeper than {MAX_DEPTH} messages")
            for name, item in value.items():
                entry = steps.get(name) or self._extension(descriptor, name)
                if entry[1] is not None and entry[1] in value:
                    raise MisfitError(f"is given twice, also as {entry[1]!r}", name)
                try:
                    entry[0](item, message, depth)
                except MisfitError as misfit:
                    misfit.path.append(name)
                    raise

        return decode

    def _extension(self, descriptor: Descriptor, name: str) -> tuple[Decode, str | None]:
        if descriptor.is_extendable and name.startswith("[") and name.endswith("]"):
            try:
                field = self._pool.FindExtensionByName(name[1:-1])
            except KeyError:
                raise MisfitError(f"is not an extension of {descriptor.full_name}", name) from None
            return self.field_function(field), None
        raise no_such_field(descriptor, name)

    def field_function(self, field: FieldDescriptor) -> Decode:
        """Returns the function that sets one field of a message."""
        if is_map(field):
            step = self._map(field)
        elif field.is_repeated:
            step = self._repeated(field)
        elif field.message_type is not None:
            step = self._message(field)
        else:
            step = _scalar(field)
        step = _nullable(field, step)
        oneof = field.containing_oneof
        return step if oneof is None or len(oneof.fields) == 1 else _exclusive(oneof.name, step)

    def _message(self, field: FieldDescriptor) -> Decode:
        child = field.message_type
        assert child is not None
        get = _getter(field)

        def step(value: Any, message: Any, depth: int) -> None:
            inner = get(message)
            inner.SetInParent()
            self.function(child)(value, inner, depth + 1)

        return step

    def _repeated(self, field: FieldDescriptor) -> Decode:
        get = _getter(field)
        child = field.message_type
        read = reader(field) if child is None else None
        takes_null = child is not None and child.full_name == "google.protobuf.Value"

        def step(value: Any, message: Any, depth: int) -> None:
            if type(value) is not list:
                raise MisfitError(f"must be a list, not {shown(value)}")
            items = get(message)
            index = 0
            try:
                if read is not None:
                    for index, item in enumerate(value):  # noqa: B007  # read by the handler below
                        items.append(read(item))
                    return
                assert child is not None
                decode = self.function(child)
                if None in value and not takes_null:
                    index = value.index(None)
                    raise MisfitError("must not be null inside a list")  # noqa: TRY301  # the handler adds the index
                for index, item in enumerate(value):  # noqa: B007  # read by the handler below
                    decode(item, items.add(), depth + 1)
            except MisfitError as misfit:
                misfit.path.append(index)
                raise

        return step

    def _map(self, field: FieldDescriptor) -> Decode:
        get = _getter(field)
        assert field.message_type is not None
        read_key = key_reader(field.message_type.fields_by_name["key"])
        value_field = field.message_type.fields_by_name["value"]
        child = value_field.message_type
        read = reader(value_field) if child is None else None

        def step(value: Any, message: Any, depth: int) -> None:
            if type(value) is not dict:
                raise MisfitError(f"must be an object, not {shown(value)}")
            entries = get(message)
            for name, item in value.items():
                try:
                    key = read_key(name)
                    if read is not None:
                        entries[key] = read(item)
                    else:
                        assert child is not None
                        self.function(child)(item, entries[key], depth + 2)  # the entry is a message too
                except MisfitError as misfit:
                    misfit.path.append(name)
                    raise

        return step

    def _any(self, value: Any, message: Any, depth: int) -> None:
        if type(value) is not dict:
            raise MisfitError(f"must be an object with '@type', not {shown(value)}")
        if not value:
            return
        url = value.get("@type")
        if type(url) is not str:
            raise MisfitError("must name its type in '@type', such as 'type.googleapis.com/google.protobuf.Duration'")
        try:
            descriptor = self._pool.FindMessageTypeByName(url.rsplit("/", 1)[-1])
        except KeyError:
            raise MisfitError(f"{shown(url)} is not a type that this server knows", "@type") from None
        inner = message_factory.GetMessageClass(descriptor)()
        rest = {name: item for name, item in value.items() if name != "@type"}
        if descriptor.full_name in WHOLE:
            if set(rest) != {"value"}:
                raise MisfitError("of a well-known type must have '@type' and 'value' only")
            self.function(descriptor)(rest["value"], inner, depth + 1)
        else:
            self.function(descriptor)(rest, inner, depth + 1)
        message.type_url = url
        try:
            message.value = inner.SerializeToString()
        except ProtoEncodeError as error:
            raise MisfitError(f"lacks a required field: {error}") from error


def no_such_field(descriptor: Descriptor, name: str) -> MisfitError:
    """Returns the error of an unknown field name, with the nearest name that there is."""
    known = [field.json_name for field in descriptor.fields]
    close = difflib.get_close_matches(name[:100], known, n=1)
    mend = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known) or 'no fields'}"
    return MisfitError(f"is not a field of {descriptor.full_name}; {mend}", name[:100])


def _getter(field: FieldDescriptor) -> Callable[[Any], Any]:
    if field.is_extension:
        return lambda message: message.Extensions[field]
    name = field.name
    return lambda message: getattr(message, name)


def _scalar(field: FieldDescriptor) -> Decode:
    read = reader(field)
    if field.is_extension:

        def set_extension(value: Any, message: Any, _depth: int) -> None:
            message.Extensions[field] = read(value)

        return set_extension
    name = field.name
    return lambda value, message, _depth: setattr(message, name, read(value))


def _nullable(field: FieldDescriptor, step: Decode) -> Decode:
    """Lets null leave the field unset, except where null is a value."""
    if not field.is_repeated:
        if field.message_type is not None and field.message_type.full_name == "google.protobuf.Value":
            return step
        if field.enum_type is not None and field.enum_type.full_name == "google.protobuf.NullValue":
            return lambda value, message, depth: step(0 if value is None else value, message, depth)

    def nullable(value: Any, message: Any, depth: int) -> None:
        if value is not None:
            step(value, message, depth)

    return nullable


def _exclusive(oneof: str, step: Decode) -> Decode:
    """Refuses a second member of a oneof. Works because decoding starts from a fresh message."""

    def exclusive(value: Any, message: Any, depth: int) -> None:
        if value is not None and (other := message.WhichOneof(oneof)) is not None:
            raise MisfitError(f"excludes {other!r}: send one of them")
        step(value, message, depth)

    return exclusive


def _text(full_name: str) -> Decode:
    read = TEXT_DECODERS[full_name]
    example = TEXT_EXAMPLES[full_name]

    def decode(value: Any, message: Any, _depth: int) -> None:
        if type(value) is not str:
            raise MisfitError(f"must be {example}, not {shown(value)}")
        try:
            read(message, value)
        except (ValueError, OverflowError):
            raise MisfitError(f"must be {example}, not {shown(value)}") from None

    return decode


def _struct(value: Any, message: Any, depth: int) -> None:
    if type(value) is not dict:
        raise MisfitError(f"must be an object, not {shown(value)}")
    fields = message.fields
    for name, item in value.items():
        try:
            _json_value(item, fields[name], depth + 2)
        except MisfitError as misfit:
            misfit.path.append(name)
            raise


def _list(value: Any, message: Any, depth: int) -> None:
    if type(value) is not list:
        raise MisfitError(f"must be a list, not {shown(value)}")
    values = message.values
    for index, item in enumerate(value):
        try:
            _json_value(item, values.add(), depth + 1)
        except MisfitError as misfit:
            misfit.path.append(index)
            raise


def _json_value(value: Any, message: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise MisfitError(f"is nested deeper than {MAX_DEPTH} messages")
    kind = type(value)
    if kind is str:
        message.string_value = value
    elif kind is bool:
        message.bool_value = value
    elif kind in {int, float}:
        assert isfinite(value)
        message.number_value = value
    elif value is None:
        message.null_value = 0
    elif kind is dict:
        message.struct_value.SetInParent()
        _struct(value, message.struct_value, depth + 1)
    else:
        message.list_value.SetInParent()
        _list(value, message.list_value, depth + 1)
