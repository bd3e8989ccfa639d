"""Who may call, and how much: built from the settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import redis.asyncio

from server.domain import TenantId
from server.domain.access import ADMIN, Principal
from server.errors import FailedPreconditionError
from server.identity.certificates import read_clients
from server.identity.keys import IssuerKeys
from server.identity.tokens import Tokens
from server.interceptors.auth import Auth
from server.interceptors.chain import Interceptor
from server.interceptors.limits import Overload, RateLimits
from server.interceptors.peers import parse_networks
from server.limits.buckets import TokenBuckets
from server.limits.guesses import Guesses
from server.service.credentials import Credentials
from server.settings import Settings
from server.store.database import Database


def refuse_open_doors(settings: Settings) -> None:
    """Raises FailedPreconditionError if another machine could call without a key."""
    for name, address in (("AISLE_GRPC_ADDRESS", settings.grpc_address), ("AISLE_HTTP_ADDRESS", settings.http_address)):
        host = address.rpartition(":")[0].strip("[]")
        if host not in {"127.0.0.1", "localhost", "::1"} and not settings.require_key:
            raise FailedPreconditionError(
                f"{name}={address} is open to other machines; set AISLE_REQUIRE_KEY=true and create keys with `aisle keys create`"
            )


def build_auth(settings: Settings, database: Database, cache_client: redis.asyncio.Redis, scopes: Mapping[str, str]) -> Auth:
    """Returns what tells credentials apart."""
    return Auth(
        Credentials(database, _tokens(settings)).principal,
        local=None if settings.require_key else Principal(TenantId(settings.local_tenant), frozenset({ADMIN}), "local"),
        scopes=scopes,
        clients=read_clients(Path(settings.tls_clients)) if settings.tls_clients else {},
        guesses=Guesses(cache_client),
        proxies=parse_networks(settings.trusted_proxies),
    )


def build_limits(settings: Settings, cache_client: redis.asyncio.Redis, scopes: Mapping[str, str]) -> list[Interceptor]:
    """Returns the limits that are set, the cheapest refusal first."""
    limits: list[Interceptor] = []
    if settings.key_rate or settings.tenant_rate:
        buckets = TokenBuckets(cache_client)
        limits.append(RateLimits(buckets, key_rate=settings.key_rate, tenant_rate=settings.tenant_rate, burst_s=settings.rate_burst_s))
    if settings.max_slowdown:
        limits.append(Overload(slowdown=settings.max_slowdown, most=settings.max_in_flight, scopes=scopes))
    return limits


def _tokens(settings: Settings) -> Tokens | None:
    if not settings.jwt_issuer:
        return None
    return Tokens(
        IssuerKeys(settings.jwt_keys),
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        tenant_claim=settings.jwt_tenant_claim,
        roles_claim=settings.jwt_roles_claim,
    )
