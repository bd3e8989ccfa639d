"""Client certificates -> tenants, by a file of names.

The file is JSON: `{"URI:spiffe://example.org/shop-backend": {"tenant": "shop", "scopes": ["recommend"]},
"CN:reports": {"tenant": "shop", "roles": ["viewer"]}}`. Names are those of the certificate's subject alternative names (`URI:`, `DNS:`) or
its subject's common name (`CN:`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from server.domain import TenantId
from server.domain.access import SCOPES, Principal, scopes_of_roles
from server.errors import FailedPreconditionError

_KINDS = ("URI:", "DNS:", "CN:")
_FIELDS = {"tenant", "scopes", "roles"}


def read_clients(path: Path) -> dict[str, Principal]:
    """Returns the principal of each name.

    Raises:
        FailedPreconditionError: The file cannot be read, or an entry is wrong; the message names it.
    """
    try:
        entries = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise FailedPreconditionError(f"AISLE_TLS_CLIENTS={path} cannot be read: {error}") from error
    if not isinstance(entries, dict):
        raise FailedPreconditionError(f"AISLE_TLS_CLIENTS={path} must be a JSON object of names")
    return {name: _principal(path, name, entry) for name, entry in entries.items()}


def _principal(path: Path, name: str, entry: Any) -> Principal:
    def refuse(what: str) -> FailedPreconditionError:
        return FailedPreconditionError(f"AISLE_TLS_CLIENTS={path}: {name!r} {what}")

    if not name.startswith(_KINDS):
        raise refuse(f"must begin with one of {', '.join(_KINDS)}")
    if not isinstance(entry, dict) or set(entry) - _FIELDS or not isinstance(entry.get("tenant"), str) or not entry["tenant"]:
        raise refuse('must be {"tenant": NAME} with "scopes", "roles" or both')
    scopes, roles = entry.get("scopes", []), entry.get("roles", [])
    if not all(isinstance(one, list) and all(isinstance(word, str) for word in one) for one in (scopes, roles)):
        raise refuse("has scopes or roles that are not lists of words")
    unknown = set(scopes) - set(SCOPES)
    if unknown:
        raise refuse(f"names {min(unknown)!r}, which is not a scope; choose from {', '.join(SCOPES)}")
    granted = frozenset(scopes) | scopes_of_roles(roles)
    if not granted:
        raise refuse("opens nothing; give it scopes or roles")
    return Principal(TenantId(entry["tenant"]), granted, f"certificate:{name}")


def names_of(subject: Iterable[tuple[tuple[str, str], ...]], alternatives: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Returns the names of a verified certificate, the most specific first.

    Args:
        subject: As `ssl.SSLSocket.getpeercert` has it.
        alternatives: Kind and value, as there.
    """
    by_kind = [f"{kind}:{value}" for wanted in ("URI", "DNS") for kind, value in alternatives if kind == wanted]
    common = [f"CN:{value}" for part in subject for kind, value in part if kind == "commonName"]
    return (*by_kind, *common)
