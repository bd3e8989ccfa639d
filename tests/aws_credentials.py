"""Credentials with which AWS's SDKs sign for a tenant."""

from __future__ import annotations

from server.domain import TenantId
from server.store import Database
from server.store import keys as key_store


async def aws_key(database: Database, tenant_id: TenantId, *scopes: str) -> key_store.AwsCredentials:
    """Returns credentials that sign for the tenant."""
    async with database.tenant(tenant_id) as connection:
        key, record = await key_store.create_key(connection, scopes or ("admin", "aws"))
    return key_store.aws_credentials(key, record)
