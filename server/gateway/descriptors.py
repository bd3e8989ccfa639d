"""Descriptor sets: files -> a pool, its methods and its comments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# Imported for what they register: a descriptor set built without its imports finds these here.
from google.api import annotations_pb2, httpbody_pb2
from google.protobuf import any_pb2, descriptor_pool, duration_pb2, empty_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from server.errors import CorruptDataError, InvalidArgumentError

_COMMON = {
    module.DESCRIPTOR.name: module.DESCRIPTOR
    for module in (
        annotations_pb2,
        any_pb2,
        duration_pb2,
        empty_pb2,
        error_details_pb2,
        field_mask_pb2,
        httpbody_pb2,
        status_pb2,
        struct_pb2,
        timestamp_pb2,
        wrappers_pb2,
    )
}


@dataclass(frozen=True, slots=True)
class Described:
    """What a descriptor set holds."""

    pool: DescriptorPool
    methods: Mapping[str, MethodDescriptor]
    """By full name with slashes, such as `/pkg.Service/Method`."""
    comments: Mapping[str, str] = field(default_factory=dict)
    """By full name with dots; empty if the set carries no source information."""


def read_set(data: bytes) -> FileDescriptorSet:
    """Returns the parsed set.

    Raises:
        CorruptDataError: `data` is not one.
    """
    try:
        files = FileDescriptorSet.FromString(data)
    except DecodeError as error:
        raise CorruptDataError("not a FileDescriptorSet; make one with `protoc --include_imports --descriptor_set_out=FILE`") from error
    if not files.file:
        raise CorruptDataError("the FileDescriptorSet is empty; make one with `protoc --include_imports --descriptor_set_out=FILE`")
    return files


def load_set(data: bytes) -> Described:
    """Returns the pool, methods and comments of a descriptor set, in any order of files.

    Raises:
        CorruptDataError: `data` is not a descriptor set, or its files contradict each other.
        InvalidArgumentError: It lacks a file that it imports.
    """
    files = read_set(data)
    by_name = {file.name: file for file in files.file}
    pool = descriptor_pool.DescriptorPool()
    added: set[str] = set()
    for file in [*files.file, *(_proto(name) for name in _COMMON if name not in by_name)]:
        _add(file, by_name, pool, added)
    methods = {}
    for file in files.file:
        for service in pool.FindFileByName(file.name).services_by_name.values():
            methods.update({f"/{service.full_name}/{method.name}": method for method in service.methods})
    return Described(pool, methods, comments_of(files))


def _proto(name: str) -> FileDescriptorProto:
    proto = FileDescriptorProto()
    _COMMON[name].CopyToProto(proto)
    return proto


def _add(file: FileDescriptorProto, by_name: Mapping[str, FileDescriptorProto], pool: DescriptorPool, added: set[str]) -> None:
    """Adds a file after those that it imports."""
    if file.name in added:
        return
    added.add(file.name)
    for name in file.dependency:
        if name in by_name:
            _add(by_name[name], by_name, pool, added)
        elif name in _COMMON:
            _add(_proto(name), by_name, pool, added)
        else:
            found = _default_file(name)
            if found is None:
                raise InvalidArgumentError(
                    f"the descriptor set lacks {name!r}, which {file.name!r} imports; build it with --include_imports"
                )
            _add(found, by_name, pool, added)
    try:
        pool.Add(file)
    except TypeError as error:
        raise CorruptDataError(f"{file.name!r} of the descriptor set does not load: {error}") from error


def _default_file(name: str) -> FileDescriptorProto | None:
    try:
        found = descriptor_pool.Default().FindFileByName(name)
    except KeyError:
        return None
    proto = FileDescriptorProto()
    found.CopyToProto(proto)
    return proto


# Field numbers of descriptor.proto: paths of source locations are made of them.
_FILE = {4: "message_type", 5: "enum_type", 6: "service"}
_INSIDE = {
    "message_type": {2: "field", 3: "message_type", 4: "enum_type"},
    "enum_type": {2: "value"},
    "service": {2: "method"},
}
_REPEATED = {"message_type": {3: "nested_type"}}


def comments_of(files: FileDescriptorSet) -> dict[str, str]:
    """Returns leading comments by full name: services, methods, messages, fields, enums, values."""
    comments: dict[str, str] = {}
    for file in files.file:
        for location in file.source_code_info.location:
            text = location.leading_comments.strip()
            if text and (name := _name_at(file, list(location.path))):
                comments[name] = "\n".join(line.removeprefix(" ").rstrip() for line in text.splitlines())
    return comments


def _name_at(file: FileDescriptorProto, path: list[int]) -> str:
    """Returns the full name of what a source location points at; empty if it has none."""
    if len(path) % 2 or not path or path[0] not in _FILE:
        return ""
    kind = _FILE[path[0]]
    at = getattr(file, kind)[path[1]]
    names = [file.package, at.name] if file.package else [at.name]
    for number, index in zip(path[2::2], path[3::2], strict=True):
        inside = _INSIDE.get(kind, {}).get(number)
        if inside is None:
            return ""
        at = getattr(at, _REPEATED.get(kind, {}).get(number, inside))[index]
        kind = inside
        names.append(at.name)
    return ".".join(names)
