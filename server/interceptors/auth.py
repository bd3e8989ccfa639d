"""Resolves a credential to a tenant and scopes. The tenant never comes from a request's body."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from cachetools import LRUCache, TTLCache
from google.protobuf.message import Message

from server.domain.access import OPEN, Principal, opens
from server.errors import OverloadedError, PermissionDeniedError, UnauthenticatedError, UnavailableError
from server.interceptors.call import Call
from server.interceptors.chain import Handler
from server.interceptors.peers import Networks, caller_address
from server.limits.guesses import Guesses

_WRONG = "this key is unknown, expired or revoked; create one with `aisle keys create`"
_FRESH_S = 30.0
_KEPT_S = 600.0
_LOOKUP_S = 1.0
_FIRST_LOOKUP_S = 5.0
_PAUSE_S = 5.0
_UNKNOWN_S = 5.0
_LOOKUPS = 4
"""Keys looked up at once: whoever guesses keys gets this share of the database's connections."""
_WAITING = 64
"""Keys looked up or waiting for it. Past it those never seen are refused."""


@dataclass(slots=True)
class _Known:
    """What a look-up found, when, and from when on it is asked again."""

    principal: Principal
    found_s: float
    ask_s: float


class Auth:
    """Keys are looked up at most every 30 s, each once however many calls carry it, and those that nobody issued at most every 5 s.

    While the database is down or hangs, a key seen in the last ten minutes still opens.
    """

    def __init__(
        self,
        lookup: Callable[[str], Awaitable[Principal | None]],
        *,
        local: Principal | None,
        scopes: Mapping[str, str],
        clients: Mapping[str, Principal] | None = None,
        guesses: Guesses | None = None,
        proxies: Networks = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Stores its arguments.

        Args:
            lookup: Key or token -> principal; None for one that nobody issued, or that expired or was revoked. May raise
                UnauthenticatedError to say more.
            local: Who a call without a key from this machine is. None: such calls are refused.
            scopes: Method, by full name with slashes -> the scope it needs.
            clients: Name in a client certificate -> principal, of calls that carry nothing else.
            guesses: Counts credentials that nobody issued. None: nobody is locked out.
            proxies: Whose word on the caller's address is believed.
            clock: Seconds that only grow.
        """
        self._lookup = lookup
        self._local = local
        self._scopes = scopes
        self._clients = clients or {}
        self._guesses = guesses
        self._proxies = proxies
        self._clock = clock
        self._known: LRUCache[bytes, _Known] = LRUCache(maxsize=10_000)
        self._unknown: TTLCache[bytes, tuple[str, bool]] = TTLCache(maxsize=10_000, ttl=_UNKNOWN_S, timer=clock)
        self._asked: dict[bytes, asyncio.Task[Principal | None]] = {}
        self._turns = asyncio.Semaphore(_LOOKUPS)

    async def __call__(self, call: Call, request: Message, handler: Handler) -> Message:
        """Fills the call's tenant, scopes and credential, but for a method that needs none.

        Raises:
            UnauthenticatedError: No credential, or an unknown one.
            PermissionDeniedError: The credential lacks the method's scope.
            OverloadedError: Too many other keys are being looked up.
        """
        scope = self._scopes[call.method]
        if scope == OPEN:
            return await handler(call, request)
        principal = await self.principal(call)
        if not opens(principal.scopes, scope):
            message = f"this key lacks the scope {scope!r}; create one with `aisle keys create --scopes {scope}`"
            raise PermissionDeniedError(message, scope=scope)
        call.tenant_id, call.scopes, call.credential = principal.tenant_id, principal.scopes, principal.credential
        return await handler(call, request)

    async def principal(self, call: Call) -> Principal:
        """Returns who calls.

        Raises:
            UnauthenticatedError: No credential, or an unknown one.
            OverloadedError: Too many other keys are being looked up.
        """
        if call.signed_by is not None:
            return call.signed_by
        key = call.metadata.get("x-api-key", "")
        authorization = call.metadata.get("authorization", "")
        if not key and authorization:
            scheme, _, key = authorization.partition(" ")
            if scheme.lower() != "bearer" or not key.strip():
                raise UnauthenticatedError("authorization must be `Bearer KEY`")
        key = key.strip()
        if key:
            return await self._resolve(call, key)
        for name in call.certificate:
            if name in self._clients:
                return self._clients[name]
        if self._local is not None and call.loopback:
            return self._local
        raise UnauthenticatedError("no key came; send `authorization: Bearer KEY` or `x-api-key: KEY`")

    async def _resolve(self, call: Call, key: str) -> Principal:
        digest = hashlib.sha256(key.encode()).digest()  # the key itself is not kept
        known, now = self._known.get(digest), self._clock()
        if known is not None and time.time() >= known.principal.until_s:
            known = None
        if known is not None and now < known.ask_s:
            return known.principal
        try:
            if digest in self._unknown:
                raise UnauthenticatedError(self._unknown[digest][0])
            principal = await self._look_up(call, digest, key, seen=known is not None)
        except UnavailableError:
            if known is None or now >= known.found_s + _KEPT_S:
                raise
            known.ask_s = now + _PAUSE_S  # the outage is not paid for with every call
            return known.principal
        return principal

    async def _look_up(self, call: Call, digest: bytes, key: str, *, seen: bool) -> Principal:
        """Returns the principal, and counts a credential that is wrong against the caller's address.

        This machine's own callers are not counted: a proxy on it that is not named as trusted speaks for everyone. Nor are tokens that
        only have expired: when a clock was set, all of those behind one address would be locked out for what they hold rightly.
        """
        address = "" if self._guesses is None or call.loopback else caller_address(call, self._proxies)
        if address and self._guesses is not None:
            self._guesses.check(address)
        principal = await self._answer(digest, key, seen=seen)
        if principal is None:
            why, issued = self._unknown.get(digest, (_WRONG, False))
            if address and self._guesses is not None and not issued:
                await self._guesses.failed(address)
            raise UnauthenticatedError(why)
        return principal

    async def _answer(self, digest: bytes, key: str, *, seen: bool) -> Principal | None:
        """Returns the look-up's answer, of the one under way if there is one."""
        asked = self._asked.get(digest)
        if asked is None:
            if not seen and len(self._asked) >= _WAITING:
                raise OverloadedError("too many keys that were never seen come at once; retry in a second", retry_after_s=1.0)
            asked = self._asked[digest] = asyncio.create_task(self._ask(digest, key, _LOOKUP_S if seen else _FIRST_LOOKUP_S))
            asked.add_done_callback(lambda done: self._answered(digest, done))
        return await asyncio.shield(asked)  # a caller that gives up must not take the answer from the others

    async def _ask(self, digest: bytes, key: str, timeout_s: float) -> Principal | None:
        try:
            async with asyncio.timeout(timeout_s), self._turns:
                principal, why, issued = await self._lookup(key), _WRONG, False
        except UnauthenticatedError as error:
            principal, why, issued = None, error.message, error.issued
        except TimeoutError as error:
            raise UnavailableError("database", "did not say in time whose key this is; retry") from error
        if principal is None:
            self._known.pop(digest, None)
            self._unknown[digest] = (why, issued)
        else:
            now = self._clock()
            self._known[digest] = _Known(principal, now, now + _FRESH_S)
        return principal

    def _answered(self, digest: bytes, asked: asyncio.Task[Principal | None]) -> None:
        del self._asked[digest]
        if not asked.cancelled():
            asked.exception()  # everyone who waited may have given up before it failed
