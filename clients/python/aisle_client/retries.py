"""When to send a call again.

Source: AIP-194: UNAVAILABLE only, since other codes either may have had an effect or will not change. RESOURCE_EXHAUSTED just where the
server names a delay, for then it did nothing.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import TypeVar

import grpc
from grpc import aio

from aisle_client.errors import AisleError, OverloadedError, UnavailableError, typed_error

Request = TypeVar("Request")
Response = TypeVar("Response")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long to wait between attempts: `initial_s * multiplier ** n`, at most `maximum_s`, each drawn from [half, whole] of that."""

    attempts: int = 5
    """Most times one call is sent, the first included. 1: never again."""
    initial_s: float = 0.1
    multiplier: float = 2.0
    maximum_s: float = 3.0

    def delay_s(self, failures: int) -> float:
        """Returns the wait after that many failed attempts, in seconds. Random, so that clients that failed together return apart."""
        whole = min(self.initial_s * self.multiplier ** (failures - 1), self.maximum_s)
        return random.uniform(whole / 2, whole)  # noqa: S311  # spreads load, hides nothing


def _wait_s(error: AisleError, failures: int, backoff: Backoff) -> float | None:
    """Returns how long to wait before the next attempt; None where the call must not be sent again."""
    if failures >= backoff.attempts:
        return None
    if isinstance(error, UnavailableError):
        return max(backoff.delay_s(failures), error.retry_after_s or 0.0)
    if isinstance(error, OverloadedError) and error.retry_after_s is not None:
        return error.retry_after_s + backoff.delay_s(failures) / 2  # not all at once at the named moment
    return None


async def call_with_retries(
    method: aio.UnaryUnaryMultiCallable[Request, Response],
    request: Request,
    *,
    timeout_s: float,
    metadata: tuple[tuple[str, str], ...],
    backoff: Backoff,
) -> Response:
    """Returns the reply. Attempts and waits together never pass `timeout_s`.

    Raises:
        AisleError: The last attempt's failure, typed.
    """
    deadline = time.monotonic() + timeout_s
    failures = 0
    while True:
        try:
            return await method(request, timeout=max(deadline - time.monotonic(), 0.001), metadata=metadata)
        except aio.AioRpcError as cause:
            if cause.code() is grpc.StatusCode.CANCELLED and (task := asyncio.current_task()) and task.cancelling():
                raise asyncio.CancelledError from cause
            error = typed_error(cause)
            failures += 1
            wait_s = _wait_s(error, failures, backoff)
            if wait_s is None or time.monotonic() + wait_s >= deadline:
                raise error from cause
        await asyncio.sleep(wait_s)
