"""API keys: `aisle_TENANT_SECRET`, shown once, stored as a hash."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg

from server.domain import TenantId
from server.domain.access import AWS, SCOPES
from server.errors import FailedPreconditionError, InvalidFieldError, NotFoundError
from server.store.audit import append_audit
from server.store.database import Connection, Database
from server.store.tenants import parse_tenant_id

_ALPHABET = string.ascii_letters + string.digits
_KEY_ID = re.compile(r"[0-9a-f]{12}")
_USE_NOTED = timedelta(minutes=10)
"""A use is written when the last one that was is older."""
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
    last_use_time: datetime | None
    """To within ten minutes; None: never."""
    replaced_by: str | None
    """Id of the key that took its place."""


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


async def rotate_key(connection: Connection, key_id: str, *, overlap: timedelta, actor: str = "cli") -> tuple[str, ApiKey]:
    """Creates a key like another, which goes on for `overlap` and then expires; returns the new one as `create_key` does.

    The old one expires no later than it would have. Where it had a time to expire, the new one gets as long a life.

    Raises:
        NotFoundError: The tenant has no such key.
        FailedPreconditionError: It opens nothing any more, or was replaced already.
    """
    row = await connection.fetchrow(
        "SELECT *, coalesce(expire_time <= now(), false) AS over FROM api_keys WHERE key_id = $1 FOR UPDATE", key_id
    )
    if row is None:
        raise NotFoundError(f"keys/{key_id}")
    if row["revoke_time"] is not None or row["over"]:
        raise FailedPreconditionError(f"keys/{key_id} is revoked or has expired; create a key instead", key=key_id)
    if row["replaced_by"] is not None:
        raise FailedPreconditionError(f"keys/{key_id} was replaced by keys/{row['replaced_by']}; rotate that one", key=key_id)
    expire_time = None if row["expire_time"] is None else datetime.now(UTC) + (row["expire_time"] - row["create_time"])
    key, record = await create_key(connection, row["scopes"], display_name=row["display_name"], expire_time=expire_time, actor=actor)
    await connection.execute(
        "UPDATE api_keys SET replaced_by = $2, expire_time = least(expire_time, now() + $3::interval) WHERE key_id = $1",
        key_id,
        record.key_id,
        overlap,
    )
    await append_audit(connection, actor=actor, action="rotate_key", resource=f"keys/{key_id}", details={"replaced_by": record.key_id})
    return key, record


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
            "SELECT key_id, key_hash, scopes, coalesce(last_use_time < now() - $2::interval, true) AS unseen FROM api_keys "
            "WHERE key_hash = $1 AND revoke_time IS NULL AND (expire_time IS NULL OR expire_time > now())",
            digest,
            _USE_NOTED,
        )
        if row is None or not hmac.compare_digest(row["key_hash"], digest):
            return None
        if row["unseen"]:
            await connection.execute("UPDATE api_keys SET last_use_time = now() WHERE key_id = $1", row["key_id"])
    return Credential(tenant_id=tenant_id, key_id=row["key_id"], scopes=frozenset(row["scopes"]))


@dataclass(frozen=True, slots=True)
class AwsCredentials:
    """A key in the form in which AWS's SDKs sign with it."""

    access_key_id: str
    secret_access_key: str


def aws_credentials(key: str, record: ApiKey) -> AwsCredentials:
    """Returns what AWS's SDKs are configured with to sign as this key. Only a key with the scope `aws` is accepted so.

    Who signs and who checks must share a secret, and of a key only its SHA-256 is stored: so that is the secret.
    """
    return AwsCredentials(f"aisle_{record.tenant_id}_{record.key_id}", _digest(key).hex())


async def signing_key(database: Database, access_key_id: str, *, timeout_s: float | None = None) -> tuple[str, Credential] | None:
    """Returns the secret access key that belongs to an access key id, and what it opens; None if there is none that may sign.

    Raises:
        UnavailableError: The database cannot be reached.
    """
    prefix, _, rest = access_key_id.partition("_")
    tenant, _, key_id = rest.partition("_")
    try:
        tenant_id = parse_tenant_id(tenant)
    except InvalidFieldError:
        return None
    if prefix != "aisle" or not _KEY_ID.fullmatch(key_id):
        return None
    async with database.tenant(tenant_id, timeout_s=timeout_s) as connection:
        row = await connection.fetchrow(
            "SELECT key_hash, scopes FROM api_keys "
            "WHERE key_id = $1 AND $2 = ANY(scopes) AND revoke_time IS NULL AND (expire_time IS NULL OR expire_time > now())",
            key_id,
            AWS,
        )
    return (row["key_hash"].hex(), Credential(tenant_id, key_id, frozenset(row["scopes"]))) if row else None


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
        last_use_time=row["last_use_time"],
        replaced_by=row["replaced_by"],
    )
