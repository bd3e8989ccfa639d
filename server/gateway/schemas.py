"""JSON Schemas of protobuf messages, as the ProtoJSON mapping writes them. Dialect: OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from server.gateway.encoder import is_map
from server.gateway.wellknown import WRAPPERS

Schema = dict[str, Any]

_WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string", "description": "Type URL of the message; its fields stand beside."}},
        "required": ["@type"],
        "additionalProperties": True,
    },
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$", "examples": ["1.5s"]},
    "google.protobuf.Empty": {"type": "object"},
    "google.protobuf.FieldMask": {"type": "string", "examples": ["title,priceRange"]},
    "google.protobuf.ListValue": {"type": "array", "items": {}},
    "google.protobuf.Struct": {"type": "object", "additionalProperties": True},
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Value": {},
}
_LONG = {
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_SINT64: "int64",
    FieldDescriptor.TYPE_SFIXED64: "int64",
    FieldDescriptor.TYPE_UINT64: "uint64",
    FieldDescriptor.TYPE_FIXED64: "uint64",
}
_SIMPLE: dict[int, Schema] = {
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.CPPTYPE_UINT32: {"type": "integer", "format": "int64", "minimum": 0, "maximum": 4294967295},
    FieldDescriptor.CPPTYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptor.CPPTYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.CPPTYPE_STRING: {"type": "string"},
}


def behaviors(field: FieldDescriptor) -> set[int]:
    """Returns the field's `google.api.field_behavior` values."""
    return set(field.GetOptions().Extensions[field_behavior_pb2.field_behavior])


class Schemas:
    """Gathers the schemas of all messages and enums that are referred to."""

    def __init__(self, comments: Mapping[str, str]) -> None:
        self.components: dict[str, Schema] = {}
        self._comments = comments
        self._names: dict[str, str] = {}

    def comment(self, full_name: str) -> str:
        """Returns the proto comment of a symbol, or empty."""
        return self._comments.get(full_name, "")

    def reference(self, descriptor: Descriptor) -> Schema:
        """Returns a reference to the message's schema, or the schema of a well-known type itself."""
        if descriptor.full_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[descriptor.full_name])
        if descriptor.full_name in WRAPPERS:
            inner = self._single(descriptor.fields_by_name["value"])
            return {**inner, "type": [inner["type"], "null"]}
        name, new = self._name(descriptor)
        if new:
            self.components[name] = {}  # holds the place, for types that hold themselves
            self.components[name] = self.object(descriptor)
        return {"$ref": f"#/components/schemas/{name}"}

    def object(self, descriptor: Descriptor, without: Collection[str] = ()) -> Schema:
        """Returns the message's schema itself, less the named fields."""
        properties = {field.json_name: self.field(field) for field in descriptor.fields if field.name not in without}
        required = [
            field.json_name for field in descriptor.fields if field.name not in without and field_behavior_pb2.REQUIRED in behaviors(field)
        ]
        schema: Schema = {"type": "object", "properties": properties}
        if required:
            schema["required"] = required
        if text := self.comment(descriptor.full_name):
            schema["description"] = text
        return schema

    def field(self, field: FieldDescriptor) -> Schema:
        """Returns the schema of a field's value, with its comment."""
        if is_map(field):
            assert field.message_type is not None
            schema: Schema = {"type": "object", "additionalProperties": self._single(field.message_type.fields_by_name["value"])}
        elif field.is_repeated:
            schema = {"type": "array", "items": self._single(field)}
        else:
            schema = self._single(field)
        if text := self.comment(field.full_name):
            schema["description"] = text
        kinds = behaviors(field)
        if field_behavior_pb2.OUTPUT_ONLY in kinds:
            schema["readOnly"] = True
        if field_behavior_pb2.INPUT_ONLY in kinds:
            schema["writeOnly"] = True
        return schema

    def _single(self, field: FieldDescriptor) -> Schema:
        if field.message_type is not None:
            return self.reference(field.message_type)
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        if field.type in _LONG:
            return {"type": "string", "format": _LONG[field.type]}
        if field.type == FieldDescriptor.TYPE_BYTES:
            return {"type": "string", "contentEncoding": "base64"}
        return dict(_SIMPLE[field.cpp_type])

    def _enum(self, descriptor: EnumDescriptor) -> Schema:
        if descriptor.full_name == "google.protobuf.NullValue":
            return {"type": "null"}
        name, new = self._name(descriptor)
        if new:
            scope = descriptor.full_name.rpartition(".")[0]  # values are siblings of their enum; comments name them inside it
            values = [value.name for value in descriptor.values]
            lines = [self.comment(descriptor.full_name)]
            for value in values:
                text = self.comment(f"{descriptor.full_name}.{value}") or self.comment(f"{scope}.{value}")
                lines.append(f"- `{value}`: {' '.join(text.split())}" if text else f"- `{value}`")
            self.components[name] = {"type": "string", "enum": values, "description": "\n".join(line for line in lines if line)}
        return {"$ref": f"#/components/schemas/{name}"}

    def _name(self, descriptor: Descriptor | EnumDescriptor) -> tuple[str, bool]:
        """Returns the component's name and whether it is new: without its package, unless two packages share it."""
        full_name = descriptor.full_name
        if full_name in self._names:
            return self._names[full_name], False
        package = descriptor.file.package
        short = full_name.removeprefix(f"{package}.") if package else full_name
        name = full_name if short in self._names.values() else short
        self._names[full_name] = name
        return name, True
