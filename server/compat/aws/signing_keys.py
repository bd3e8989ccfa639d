"""Access key id -> secret, asked of the database at most every half minute."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cachetools import LRUCache, TTLCache

from server.domain.access import Principal
from server.errors import OverloadedError, UnavailableError
from server.service.deadlines import left_s

_FRESH_S = 30.0
_KEPT_S = 600.0
_UNKNOWN_S = 5.0
_LOOKUPS = 4
"""Look-ups at once: whoever guesses ids gets this share of the database's connections."""
_WAITING = 64


@dataclass(frozen=True, slots=True)
class SigningKey:
    """What checks a signature, and who signed if it holds."""

    secret: str
    principal: Principal


Lookup = Callable[[str, float], Awaitable[SigningKey | None]]
"""Access key id, seconds -> what belongs to it."""


class SigningKeys:
    """While the database is down, a key seen in the last ten minutes still signs, as others still open."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._known: LRUCache[str, tuple[float, SigningKey]] = LRUCache(10_000)
        self._unknown: TTLCache[str, bool] = TTLCache(10_000, _UNKNOWN_S)
        self._turns = asyncio.Semaphore(_LOOKUPS)
        self._waiting = 0

    async def get(self, access_key_id: str, *, deadline: float) -> SigningKey | None:
        """Returns what belongs to an access key id, or None.

        Raises:
            UnavailableError: The database is down, and the id was not seen lately.
            OverloadedError: Too many ids that were never seen are being looked up.
        """
        found_s, known = self._known.get(access_key_id, (0.0, None))
        now = time.monotonic()
        if known is not None and now < found_s + _FRESH_S:
            return known
        if access_key_id in self._unknown:
            return None
        try:
            found = await self._ask(access_key_id, left_s(deadline), seen=known is not None)
        except UnavailableError:
            if known is None or now >= found_s + _KEPT_S:
                raise
            return known
        if found is None:
            self._known.pop(access_key_id, None)
            self._unknown[access_key_id] = True
        else:
            self._known[access_key_id] = (time.monotonic(), found)
        return found

    async def _ask(self, access_key_id: str, timeout_s: float, *, seen: bool) -> SigningKey | None:
        if not seen and self._waiting >= _WAITING:
            raise OverloadedError("too many access key ids that were never seen come at once; retry in a second", retry_after_s=1.0)
        self._waiting += 1
        try:
            async with asyncio.timeout(timeout_s), self._turns:
                return await self._lookup(access_key_id, timeout_s)
        except TimeoutError as error:
            raise UnavailableError("database", "did not say in time whose access key this is; retry") from error
        finally:
            self._waiting -= 1
