"""Every RPC can be reached by HTTP, is described, and is guarded."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import MethodDescriptor

from aisle.v1 import (
    access_pb2,
    cache_service_pb2,
    embedding_service_pb2,
    event_service_pb2,
    item_service_pb2,
    personalization_service_pb2,
    recommendation_service_pb2,
    vector_service_pb2,
)
from server.compat.kserve.servicer import SCOPES as KSERVE_SCOPES
from server.compat.kserve.servicer import SERVICE as KSERVE
from server.compat.kserve.servicer import offered_service
from server.domain.access import ADMIN, AWS, OPEN, SCOPES
from server.gateway.descriptors import load_set
from server.interceptors.scopes import required_scopes

_MODULES = (
    cache_service_pb2,
    embedding_service_pb2,
    event_service_pb2,
    item_service_pb2,
    personalization_service_pb2,
    recommendation_service_pb2,
    vector_service_pb2,
)
SERVICES = [service for module in _MODULES for service in module.DESCRIPTOR.services_by_name.values()]
METHODS = [method for service in SERVICES for method in service.methods]
_ROOT = Path(__file__).resolve().parents[2]


def _unary(method: MethodDescriptor) -> bool:
    return not method.client_streaming


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_every_rpc_has_an_http_rule_a_comment_and_a_scope(method: MethodDescriptor) -> None:
    """Each RPC but bidirectional ones has a path, a comment that the API page is made of, and declares a scope that keys can have."""
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    assert rule.WhichOneof("pattern") or not _unary(method)
    comments = load_set((_ROOT / "proto" / "gen" / "aisle" / "descriptors.binpb").read_bytes()).comments
    assert comments[method.full_name].strip()
    assert method.GetOptions().Extensions[access_pb2.required_scope] in SCOPES


def test_no_scope_opens_nothing() -> None:
    """Every scope that a key can have, but admin and the one that lets it sign, is what some method asks for."""
    assert {*required_scopes(SERVICES, {}).values(), ADMIN, AWS} == set(SCOPES)


def test_open_methods_are_offered_and_tell_nothing_of_a_tenant() -> None:
    """What needs no key is the inference protocol's health and name alone; its other methods need one scope."""
    found = required_scopes([offered_service()], KSERVE_SCOPES)
    for name in ("ServerLive", "ServerReady", "ServerMetadata"):
        assert found.pop(f"/{KSERVE}/{name}") == OPEN
    assert f"/{KSERVE}/ModelInfer" in found
    assert set(found.values()) == {"embeddings"}


@pytest.mark.parametrize("foreign", [{}, {f"/{KSERVE}/ServerLive": ""}, dict.fromkeys(KSERVE_SCOPES, "itmes")])
def test_a_foreign_method_without_a_scope_is_refused(foreign: dict[str, str]) -> None:
    """A method whose proto is not ours gets no table either, unless a scope or `OPEN` is written down for it by name."""
    with pytest.raises(ValueError, match="ServerLive must declare one of"):
        required_scopes([offered_service()], foreign)


@pytest.mark.parametrize("scope", ["", "itmes", OPEN])
def test_a_method_without_a_scope_is_refused(scope: str) -> None:
    """A service with a method that declares no scope, or one that nobody can have, does not get a table: no server starts with it."""
    file = descriptor_pb2.FileDescriptorProto(name=f"open_{scope}.proto", package=f"open{scope}", dependency=["aisle/v1/access.proto"])
    file.message_type.add(name="Empty")
    kind = f".open{scope}.Empty"
    method = file.service.add(name="Door").method.add(name="Enter", input_type=kind, output_type=kind)
    if scope:
        method.options.Extensions[access_pb2.required_scope] = scope
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    with pytest.raises(ValueError, match=f"open{scope}.Door.Enter must declare one of"):
        required_scopes([pool.FindServiceByName(f"open{scope}.Door")], {})


def test_every_proto_with_a_service_is_here() -> None:
    """The files of `proto/aisle/v1` that declare a service are the modules of this test."""
    declared = {path.stem for path in (_ROOT / "proto" / "aisle" / "v1").glob("*.proto") if "\nservice " in path.read_text()}
    assert declared == {Path(module.DESCRIPTOR.name).stem for module in _MODULES}
