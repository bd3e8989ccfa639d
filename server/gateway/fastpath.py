"""JSON values to protobuf messages when all is well: the decoder's fast path, written out for each message type.

A type `message Event { string event_id = 1; double value = 2; google.protobuf.Timestamp occur_time = 3; }` becomes

    def fill_4(value, m, depth):
        n = 0
        v = value.get('eventId')
        if v is not None:
            n += 1
            m.event_id = v
        v = value.get('value')
        if v is not None:
            n += 1
            m.value = v if type(v) is float else read_9(v)
        v = value.get('occurTime')
        if v is not None:
            n += 1
            read_text_10(m.occur_time, v)
        if n != len(value): raise Unsure

It knows only lowerCamelCase names and plain values. At anything else it gives up, whatever the reason, and the careful decoder starts
over: so there is one place that judges input and words errors, and this one only has to be right about correct input.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from server.gateway.encoder import is_map
from server.gateway.scalars import MisfitError, reader
from server.gateway.wellknown import TEXT_DECODERS

if TYPE_CHECKING:
    from server.gateway.decoder import Decoder

Fill = Callable[[Any, Any, int], None]


class Unsure(Exception):  # noqa: N818  # a signal, not an error
    """The fast path does not know this document."""


GIVES_UP = (Unsure, MisfitError, TypeError, ValueError, AttributeError, OverflowError)
"""What a document outside the fast path raises here; all of it means: start over, carefully."""


class FastPath:
    """Compiles and holds the functions."""

    def __init__(self, decoder: Decoder, *, max_depth: int) -> None:
        self._decoder = decoder
        self._max_depth = max_depth
        self._names: dict[str, str] = {}
        self._globals: dict[str, Any] = {"Unsure": Unsure}

    def function(self, descriptor: Descriptor) -> Fill:
        """Returns the function that fills a fresh message of this type, or raises one of `GIVES_UP`."""
        function: Fill = self._globals[self._name(descriptor)]
        return function

    def _bound(self, prefix: str, value: Any) -> str:
        name = f"{prefix}_{len(self._globals)}"
        self._globals[name] = value
        return name

    def _name(self, descriptor: Descriptor) -> str:
        if descriptor.full_name not in self._names:
            name = self._names[descriptor.full_name] = f"fill_{len(self._names)}"
            # Only names from descriptors enter the source, which protobuf holds to identifiers, and JSON names, by repr().
            exec(compile(self._source(name, descriptor), "<json decoder>", "exec"), self._globals)  # noqa: S102
        return self._names[descriptor.full_name]

    def _source(self, name: str, descriptor: Descriptor) -> str:
        lines = [f"def {name}(value, m, depth):", f"    if depth > {self._max_depth}: raise Unsure", "    n = 0"]
        for field in descriptor.fields:
            lines += [f"    v = value.get({field.json_name!r})", "    if v is not None:", "        n += 1"]
            lines += [f"        {line}" for line in self._set(field)]
        return "\n".join([*lines, "    if n != len(value): raise Unsure"])

    def _set(self, field: FieldDescriptor) -> list[str]:
        """Returns the lines that put `v` into the field."""
        target = f"m.{field.name}"
        oneof = field.containing_oneof
        child = field.message_type
        plain = child is None or not child.full_name.startswith("google.protobuf.") or child.full_name in TEXT_DECODERS
        if is_map(field) or keyword.iskeyword(field.name) or not plain or (oneof is not None and len(oneof.fields) > 1):
            return [f"{self._bound('step', self._decoder.field_function(field))}(v, m, depth)"]
        if child is None:
            return self._set_scalar(field, target)
        one = (
            f"{self._bound('read_text', TEXT_DECODERS[child.full_name])}(x, v)"
            if child.full_name in TEXT_DECODERS
            else f"{self._name(child)}(v, x, depth + 1)"
        )
        if field.is_repeated:
            return ["if type(v) is not list: raise Unsure", f"items = {target}", f"for v in v: x = items.add(); {one}"]
        return [f"x = {target}", "x.SetInParent()", one]

    def _set_scalar(self, field: FieldDescriptor, target: str) -> list[str]:
        # upb refuses what is not text for a string, but takes true for a number: those are checked by the readers.
        text = field.type == FieldDescriptor.TYPE_STRING
        read = "" if text else self._bound("read", reader(field))
        if field.is_repeated:
            values = "v" if text else f"[{read}(x) for x in v]"
            return ["if type(v) is not list: raise Unsure", f"{target}.extend({values})"]
        if text:
            return [f"{target} = v"]
        if field.type == FieldDescriptor.TYPE_DOUBLE:
            return [f"{target} = v if type(v) is float else {read}(v)"]
        return [f"{target} = {read}(v)"]
