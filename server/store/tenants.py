"""Tenants. Made and listed by the system, never by a tenant."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from server.domain import TenantId
from server.errors import AlreadyExistsError, InvalidFieldError
from server.store.database import Connection

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Tenant:
    """One customer or brand; all data belongs to exactly one."""

    tenant_id: TenantId
    display_name: str
    create_time: datetime


def parse_tenant_id(name: str) -> TenantId:
    """Returns the name as a tenant's.

    Raises:
        InvalidFieldError: It is not 1 to 63 lower-case letters, digits and dashes that start with a letter and do not end with a dash.
    """
    if not _NAME.fullmatch(name):
        raise InvalidFieldError(
            "tenant", f"{name[:80]!r} is not a tenant's name: 1 to 63 of a-z, 0-9 and '-', starting with a letter, not ending with '-'"
        )
    return TenantId(name)


async def create_tenant(connection: Connection, tenant_id: TenantId, *, display_name: str = "") -> Tenant:
    """Creates a tenant. `connection` is of `Database.system()`.

    Raises:
        AlreadyExistsError: The name is taken.
    """
    row = await connection.fetchrow(
        "INSERT INTO tenants (tenant_id, display_name) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING *",
        parse_tenant_id(tenant_id),
        display_name,
    )
    if row is None:
        raise AlreadyExistsError(f"tenants/{tenant_id}")
    return Tenant(**row)


async def ensure_tenant(connection: Connection, tenant_id: TenantId) -> bool:
    """Creates the tenant where it is missing, and returns whether it was. `connection` is of `Database.system()`."""
    made = await connection.fetchval(
        "INSERT INTO tenants (tenant_id) VALUES ($1) ON CONFLICT DO NOTHING RETURNING true", parse_tenant_id(tenant_id)
    )
    return bool(made)


async def tenant_exists(connection: Connection, tenant_id: TenantId) -> bool:
    """Returns whether the tenant exists; under `Database.tenant()` only of the tenant itself."""
    return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM tenants WHERE tenant_id = $1)", tenant_id))


async def list_tenants(connection: Connection) -> list[Tenant]:
    """Returns all tenants by name. `connection` is of `Database.system()`; a tenant's own sees itself alone."""
    return [Tenant(**row) for row in await connection.fetch("SELECT * FROM tenants ORDER BY tenant_id")]
