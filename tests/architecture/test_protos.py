"""Every RPC can be reached by HTTP, is described, and is guarded."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor

from aisle.v1 import (
    embedding_service_pb2,
    event_service_pb2,
    item_service_pb2,
    personalization_service_pb2,
    recommendation_service_pb2,
    vector_service_pb2,
)
from server.gateway.descriptors import load_set
from server.interceptors.auth import METHOD_SCOPES, SCOPES
from server.store.keys import SCOPES as KEY_SCOPES

_MODULES = (
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
    """Each RPC but bidirectional ones has a path, a comment that the API page is made of, and a scope that keys can have."""
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    assert rule.WhichOneof("pattern") or not _unary(method)
    comments = load_set((_ROOT / "proto" / "gen" / "aisle" / "descriptors.binpb").read_bytes()).comments
    assert comments[method.full_name].strip()
    name = f"/{method.containing_service.full_name}/{method.name}"
    assert (METHOD_SCOPES.get(name) or SCOPES[method.containing_service.full_name]) in KEY_SCOPES


def test_no_scope_is_without_a_service() -> None:
    """The table of scopes names the services that there are, and methods that there are."""
    assert set(SCOPES) == {service.full_name for service in SERVICES}
    assert set(METHOD_SCOPES) <= {f"/{method.containing_service.full_name}/{method.name}" for method in METHODS}
    assert {*SCOPES.values(), *METHOD_SCOPES.values(), "admin"} == set(KEY_SCOPES)


def test_every_proto_with_a_service_is_here() -> None:
    """The files of `proto/aisle/v1` that declare a service are the modules of this test."""
    declared = {path.stem for path in (_ROOT / "proto" / "aisle" / "v1").glob("*.proto") if "\nservice " in path.read_text()}
    assert declared == {Path(module.DESCRIPTOR.name).stem for module in _MODULES}
