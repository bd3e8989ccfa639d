"""Resolves a credential to a tenant and scopes. The tenant never comes from a request's body."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cachetools import LRUCache
from google.protobuf.message import Message

from server.domain import TenantId
from server.errors import PermissionDeniedError, UnauthenticatedError, UnavailableError
from server.interceptors.call import Call
from server.interceptors.chain import Handler

SCOPES = {
    "aisle.v1.RecommendationService": "recommend",
    "aisle.v1.PersonalizationService": "profiles",
    "aisle.v1.EmbeddingService": "embeddings",
    "aisle.v1.ItemService": "items",
    "aisle.v1.EventService": "events",
    "aisle.v1.VectorService": "vectors",
}
"""Service -> scope that its methods need, but for the methods below."""

METHOD_SCOPES = {"/aisle.v1.PersonalizationService/GeneratePersonalization": "recommend"}
"""Method -> scope, where it is not the service's."""

_FRESH_S = 30.0
_KEPT_S = 600.0
_LOOKUP_S = 1.0
_PAUSE_S = 5.0


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls."""

    tenant_id: TenantId
    scopes: frozenset[str]
    """`admin` stands for all."""


@dataclass(slots=True)
class _Known:
    """What a look-up found, when, and from when on it is asked again."""

    principal: Principal
    found_s: float
    ask_s: float


class Auth:
    """Keys are looked up at most every 30 s; while the database is down or hangs, a key seen in the last ten minutes still opens."""

    def __init__(
        self,
        lookup: Callable[[str], Awaitable[Principal | None]],
        *,
        local: Principal | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Stores its arguments.

        Args:
            lookup: Key -> principal; None for a key that nobody issued, or that expired or was revoked.
            local: Who a call without a key from this machine is. None: such calls are refused.
            clock: Seconds that only grow.
        """
        self._lookup = lookup
        self._local = local
        self._clock = clock
        self._known: LRUCache[bytes, _Known] = LRUCache(maxsize=10_000)

    async def __call__(self, call: Call, request: Message, handler: Handler) -> Message:
        """Fills the call's tenant and scopes.

        Raises:
            UnauthenticatedError: No credential, or an unknown one.
            PermissionDeniedError: The credential lacks the method's scope.
        """
        principal = await self._principal(call)
        scope = METHOD_SCOPES.get(call.method) or SCOPES[call.method.split("/")[1]]
        if scope not in principal.scopes and "admin" not in principal.scopes:
            message = f"this key lacks the scope {scope!r}; create one with `aisle keys create --scopes {scope}`"
            raise PermissionDeniedError(message, scope=scope)
        call.tenant_id, call.scopes = principal.tenant_id, principal.scopes
        return await handler(call, request)

    async def _principal(self, call: Call) -> Principal:
        key = call.metadata.get("x-api-key", "")
        authorization = call.metadata.get("authorization", "")
        if not key and authorization:
            scheme, _, key = authorization.partition(" ")
            if scheme.lower() != "bearer" or not key.strip():
                raise UnauthenticatedError("authorization must be `Bearer KEY`")
        key = key.strip()
        if not key:
            if self._local is not None and call.loopback:
                return self._local
            raise UnauthenticatedError("no key came; send `authorization: Bearer KEY` or `x-api-key: KEY`")
        return await self._resolve(key)

    async def _resolve(self, key: str) -> Principal:
        digest = hashlib.sha256(key.encode()).digest()  # the key itself is not kept
        known, now = self._known.get(digest), self._clock()
        if known is not None and now < known.ask_s:
            return known.principal
        try:
            async with asyncio.timeout(_LOOKUP_S if known else None):
                principal = await self._lookup(key)
        except (UnavailableError, TimeoutError):
            if known is None or now >= known.found_s + _KEPT_S:
                raise
            known.ask_s = now + _PAUSE_S  # the outage is not paid for with every call
            return known.principal
        if principal is None:
            self._known.pop(digest, None)
            raise UnauthenticatedError("this key is unknown, expired or revoked; create one with `aisle keys create`")
        self._known[digest] = _Known(principal, now, now + _FRESH_S)
        return principal
