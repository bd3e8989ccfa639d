"""What a credential opens: scopes, and the roles that stand for several.

The scope that each method needs is declared in its proto, by the option `aisle.v1.required_scope`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from server.domain.ids import TenantId

ADMIN = "admin"
"""Stands for all scopes but `AWS`."""

AWS = "aws"
"""Scope of a key that may also sign requests. No method needs it, and who may call all methods must still be given it by name."""

OPEN = "open"
"""In place of a scope: the method needs no credential. Nobody has it, and no proto of ours can declare it."""

_READ = ".read"

SCOPES = (
    "recommend",
    "events",
    "events.read",
    "items",
    "items.read",
    "profiles",
    "profiles.read",
    "embeddings",
    "vectors",
    "vectors.read",
    ADMIN,
    AWS,
)
"""What a key or token may open. A scope includes the one with `.read` after it."""

ROLES: dict[str, frozenset[str]] = {
    "viewer": frozenset({"recommend", "events.read", "items.read", "profiles.read", "vectors.read"}),
    "editor": frozenset({"recommend", "events", "items", "profiles", "embeddings", "vectors"}),
    "owner": frozenset({ADMIN}),
}
"""Roles of people -> their scopes. Tokens of an identity provider name them, and so do client certificates."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls."""

    tenant_id: TenantId
    scopes: frozenset[str]
    credential: str = ""
    """Which of the tenant's credentials it was, by a name that is no secret."""
    until_s: float = math.inf
    """When it ends, in seconds since 1970."""


def opens(scopes: Collection[str], required: str) -> bool:
    """Returns whether these scopes let a caller use a method that needs `required`."""
    if required in scopes or (required.endswith(_READ) and required.removesuffix(_READ) in scopes):
        return True
    return ADMIN in scopes and required != AWS


def scopes_of_roles(roles: Iterable[str]) -> frozenset[str]:
    """Returns the scopes of all these roles together. An unknown role has none: the provider may use it for other programs."""
    return frozenset().union(*(ROLES.get(role, frozenset()) for role in roles))
