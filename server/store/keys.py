"""API keys: `aisle_TENANT_SECRET`, shown once, stored as a hash."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from server.domain import TenantId
from server.errors import InvalidFieldError, NotFoundError
from server.store.audit import append_audit
from server.store.database import Connection, Database
from server.store.tenants import parse_tenant_id

SCOPES = ("recommend", "events", "items", "profiles", "embeddings", "vectors", "admin")
"""What a key may open; `admin` stands for all. The services' scopes are `interceptors.auth.SCOPES`."""

_ALPHABET = string.ascii_letters + string.digits
_SECRET_LENGTH = 40
"""238 random bits: past guessing, so an unsalted SHA-256 is enough and one look-up by hash finds the key."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret."""

    key_id: str
    tenant_id: TenantId
    scopes: tuple[str, ...]
    display_name: str
    create_time: datetime
    expire_time: datetime | None
    revoke_time: datetime | None


@dataclass(frozen=True, slots=True)
class Credential:
    """What a valid key opens."""

    tenant_id: TenantId
    key_id: str
    scopes: frozenset[str]


def parse_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """Returns the scopes, each once, in the order of `SCOPES`.

    Raises:
        InvalidFieldError: One is unknown, or there are none.
    """
    given = {scope.strip() for scope in scopes} - {""}
    unknown = sorted(given - set(SCOPES))
    if unknown or not given:
        what = f"{unknown[0]!r} is not a scope" if unknown else "are missing"
        raise InvalidFieldError("scopes", f"{what}; choose from {', '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if scope in given)


async def create_key(
    connection: Connection, scopes: Iterable[str], *, display_name: str = "", expire_time: datetime | None = None, actor: str = "cli"
) -> tuple[str, ApiKey]:
    """Creates a key and returns its secret form, which cannot be had again, and its record.

    Raises:
        InvalidFieldError: A scope is unknown.
    """
    tenant_id = await connection.fetchval("SELECT current_setting('aisle.tenant_id')")
    key = f"aisle_{tenant_id}_{''.join(secrets.choice(_ALPHABET) for _ in range(_SECRET_LENGTH))}"
    key_id = secrets.token_hex(6)
    row = await connection.fetchrow(
        "INSERT INTO api_keys (key_id, key_hash, scopes, display_name, expire_time) VALUES ($1, $2, $3, $4, $5) RETURNING *",
        key_id,
        _digest(key),
        list(parse_scopes(scopes)),
        display_name,
        expire_time,
    )
    assert row is not None
    await append_audit(connection, actor=actor, action="create_key", resource=f"keys/{key_id}", details={"scopes": row["scopes"]})
    return key, _api_key(row)


async def list_keys(connection: Connection) -> list[ApiKey]:
    """Returns the tenant's keys, oldest first, revoked and expired ones too."""
    return [_api_key(row) for row in await connection.fetch("SELECT * FROM api_keys ORDER BY create_time, key_id")]


async def revoke_key(connection: Connection, key_id: str, *, actor: str = "cli") -> ApiKey:
    """Revokes a key for good; revoking twice changes nothing. Servers that saw the key lately accept it for up to 30 s more.

    Raises:
        NotFoundError: The tenant has no such key.
    """
    row = await connection.fetchrow(
        "UPDATE api_keys SET revoke_time = coalesce(revoke_time, now()) WHERE key_id = $1 RETURNING *, revoke_time = now() AS fresh", key_id
    )
    if row is None:
        raise NotFoundError(f"keys/{key_id}")
    if row["fresh"]:
        await append_audit(connection, actor=actor, action="revoke_key", resource=f"keys/{key_id}")
    return _api_key(row)


async def authenticate(database: Database, key: str, *, timeout_s: float | None = None) -> Credential | None:
    """Returns what the key opens; None if nobody issued it, or it expired or was revoked. Takes one transaction: cache the answer.

    Raises:
        UnavailableError: The database cannot be reached.
    """
    # Neither tenants nor secrets hold an underscore.
    prefix, _, rest = key.partition("_")
    tenant, _, secret = rest.partition("_")
    if prefix != "aisle" or len(secret) != _SECRET_LENGTH or not secret.isascii():
        return None
    try:
        tenant_id = parse_tenant_id(tenant)
    except InvalidFieldError:
        return None
    digest = _digest(key)
    async with database.tenant(tenant_id, timeout_s=timeout_s) as connection:
        row = await connection.fetchrow(
            "SELECT key_id, key_hash, scopes FROM api_keys "
            "WHERE key_hash = $1 AND revoke_time IS NULL AND (expire_time IS NULL OR expire_time > now())",
            digest,
        )
    if row is None or not hmac.compare_digest(row["key_hash"], digest):
        return None
    return Credential(tenant_id=tenant_id, key_id=row["key_id"], scopes=frozenset(row["scopes"]))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _api_key(row: asyncpg.Record) -> ApiKey:
    return ApiKey(
        key_id=row["key_id"],
        tenant_id=row["tenant_id"],
        scopes=tuple(row["scopes"]),
        display_name=row["display_name"],
        create_time=row["create_time"],
        expire_time=row["expire_time"],
        revoke_time=row["revoke_time"],
    )
