"""Refuses calls beyond a key's or a tenant's rate, and those that an overloaded server would answer late."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from google.protobuf.message import Message

from server.domain.access import OPEN
from server.errors import InvalidFieldError, OverloadedError, RateLimitedError
from server.interceptors.call import Call
from server.interceptors.chain import Handler
from server.limits.buckets import Bucket, TokenBuckets
from server.limits.concurrency import ConcurrencyLimit
from server.limits.waiting import Priority, WaitingRoom
from server.telemetry import CALLS_REFUSED, CONCURRENCY_LIMIT

PRIORITY_HEADER = "x-aisle-priority"

_INTERACTIVE_SCOPES = frozenset({"recommend", "events"})
"""Somebody waits for a page, or an event would be lost."""


class RateLimits:
    """A token bucket for each key and one for each tenant. Needs the call's tenant and credential, so it comes after `Auth`."""

    def __init__(self, buckets: TokenBuckets, *, key_rate: float, tenant_rate: float, burst_s: float) -> None:
        """Stores its arguments.

        Args:
            buckets: Where tokens come from.
            key_rate: Calls a second of one credential. 0: any number.
            tenant_rate: Calls a second of one tenant, all its credentials together. 0: any number.
            burst_s: Seconds' worth of either rate that may come at once.
        """
        self._buckets = buckets
        self._key_rate = key_rate
        self._tenant_rate = tenant_rate
        self._burst_s = burst_s

    async def __call__(self, call: Call, request: Message, handler: Handler) -> Message:
        """Answers the call if both buckets have a token.

        Raises:
            RateLimitedError: One is empty.
        """
        if not call.credential:
            return await handler(call, request)  # a method that needs none: it is nobody's, and all probes would share a bucket
        buckets = []
        if self._key_rate:
            credential = hashlib.sha256(call.credential.encode()).hexdigest()[:32]  # subjects of tokens may be long, or hold braces
            buckets.append(self._bucket(call, f"key:{credential}", self._key_rate))
        if self._tenant_rate:
            buckets.append(self._bucket(call, "tenant", self._tenant_rate))
        refused = await self._buckets.take(buckets)
        if refused is None:
            return await handler(call, request)
        bucket, wait_s = refused
        whose = "tenant" if bucket.name.endswith(":tenant") else "key"
        CALLS_REFUSED.labels(f"{whose}_rate").inc()
        message = f"this {whose} may make {bucket.rate:g} calls a second; retry after the delay"
        raise RateLimitedError(message, limit=whose, rate=bucket.rate, retry_after_s=wait_s)

    def _bucket(self, call: Call, name: str, rate: float) -> Bucket:
        return Bucket(f"aisle:{{{call.tenant_id}}}:limit:{name}", rate, max(1.0, rate * self._burst_s))


class Overload:
    """Lets in as many calls at once as can be answered in time. Comes after `RateLimits`: a tenant's excess must not look like overload."""

    def __init__(self, *, slowdown: float, most: int, scopes: Mapping[str, str]) -> None:
        """Begins with a small limit.

        Args:
            slowdown: How many times longer than on a quiet server a call may take on average, above 1.
            most: Most calls that run at once, whatever their times.
            scopes: Method, by full name with slashes -> the scope it needs.
        """
        self._limit = ConcurrencyLimit(slowdown=slowdown, most=most)
        self._room = WaitingRoom(self._limit)
        self._scopes = scopes

    async def __call__(self, call: Call, request: Message, handler: Handler) -> Message:
        """Answers the call when its turn comes.

        Raises:
            OverloadedError: It does not come in time.
            InvalidFieldError: `x-aisle-priority` is unknown.
        """
        if self._scopes[call.method] == OPEN:
            return await handler(call, request)  # a probe: where it is refused, the process is restarted, and the load is others'
        try:
            permit = await self._room.enter(self._priority(call))
        except OverloadedError:
            CALLS_REFUSED.labels("overload").inc()
            raise
        answered = False
        try:
            reply = await handler(call, request)
            answered = True
            return reply
        finally:
            self._room.leave(call.method, permit, answered=answered)
            CONCURRENCY_LIMIT.set(self._limit.limit)

    def _priority(self, call: Call) -> Priority:
        """Returns what the method has, or less: callers may lower it, never raise it."""
        asked = call.metadata.get(PRIORITY_HEADER)
        if asked is None:
            return Priority.INTERACTIVE if self._scopes[call.method] in _INTERACTIVE_SCOPES else Priority.DEFAULT
        if asked != "batch":
            raise InvalidFieldError(PRIORITY_HEADER, f"is {asked[:40]!r}; send `batch` for calls that can wait, or leave it out")
        return Priority.BATCH
