"""Reads from the descriptors which scope each method needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aisle.v1 import access_pb2
from server.domain.access import OPEN, SCOPES
from server.interceptors.chain import Service


def required_scopes(services: Iterable[Service], foreign: Mapping[str, str]) -> dict[str, str]:
    """Returns the scope of every method of the services, by full name with slashes.

    Args:
        services: Those that are offered.
        foreign: The scopes, or `OPEN`, of methods whose protos are not ours and declare none, by full name with slashes.

    Raises:
        ValueError: A method has none, or one that no credential can have: it would be open to nobody, or to everybody.
    """
    found: dict[str, str] = {}
    for service in services:
        for method in service.methods:
            name = f"/{service.full_name}/{method.name}"
            scope = foreign.get(name) or method.GetOptions().Extensions[access_pb2.required_scope]
            if scope not in SCOPES and foreign.get(name) != OPEN:
                raise ValueError(f"{method.full_name} must declare one of {', '.join(SCOPES)} by (aisle.v1.required_scope), not {scope!r}")
            found[name] = scope
    return found
