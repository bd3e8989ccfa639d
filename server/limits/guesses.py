"""Locks addresses out that try one unknown credential after another.

Keys are past guessing (238 random bits), so this protects the database and the log, not the keys. What an address that is locked out
cannot do is have a credential looked up that this process does not know yet; known ones go on, so that a guesser behind a shared address
keeps few out.

The count is in Redis, so that an address has as many tries at all replicas as at one; while Redis is away each process counts for itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network

import redis.asyncio
from cachetools import TTLCache
from redis.exceptions import RedisError

from server.errors import OverloadedError
from server.telemetry import CALLS_REFUSED, logger

TRIES = 20
"""Unknown credentials that an address may try within `WINDOW_S`."""
WINDOW_S = 60
FIRST_LOCK_S = 60
LONGEST_LOCK_S = 3600
_STRIKES_KEPT_S = 24 * 3600

_FAILED = """
local locked = redis.call('TTL', KEYS[2])
if locked > 0 then return locked end
local tries = redis.call('INCR', KEYS[1])
if tries == 1 then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
if tries < tonumber(ARGV[1]) then return 0 end
local strikes = redis.call('INCR', KEYS[3])
redis.call('EXPIRE', KEYS[3], ARGV[5])
local lock = math.min(tonumber(ARGV[4]), tonumber(ARGV[3]) * 2 ^ (strikes - 1))
redis.call('SET', KEYS[2], 1, 'EX', math.floor(lock))
redis.call('DEL', KEYS[1])
return math.floor(lock)
"""
"""Counts a failure; returns the seconds that the address is locked out for, 0 for not."""

_log = logger(__name__)


class Guesses:
    """Failures by address."""

    def __init__(self, client: redis.asyncio.Redis, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`client`: With a timeout short enough to wait for in a request. `clock`: Seconds that only grow."""
        self._failed = client.register_script(_FAILED)
        self._clock = clock
        self._locked: TTLCache[str, float] = TTLCache(maxsize=10_000, ttl=LONGEST_LOCK_S, timer=clock)
        self._tries: TTLCache[str, int] = TTLCache(maxsize=10_000, ttl=WINDOW_S, timer=clock)

    def check(self, address: str) -> None:
        """Does nothing, unless the address is locked out.

        Raises:
            OverloadedError: It is.
        """
        left_s = self._locked.get(network(address), 0.0) - self._clock()
        if left_s > 0:
            CALLS_REFUSED.labels("guesses").inc()
            raise OverloadedError("too many unknown credentials came from this address; retry after the delay", retry_after_s=left_s)

    async def failed(self, address: str) -> None:
        """Counts a credential that nobody issued."""
        of = network(address)
        try:
            names = [f"aisle:{{guesses:{of}}}:{part}" for part in ("tries", "locked", "strikes")]
            lock_s = float(await self._failed(keys=names, args=[TRIES, WINDOW_S, FIRST_LOCK_S, LONGEST_LOCK_S, _STRIKES_KEPT_S]))
        except (RedisError, OSError):
            tries = self._tries[of] = self._tries.get(of, 0) + 1
            lock_s = FIRST_LOCK_S if tries >= TRIES else 0.0
        if lock_s > 0:
            self._tries.pop(of, None)
            self._locked[of] = self._clock() + lock_s
            _log.warning("address_locked_out", address=of, seconds=lock_s)


def network(address: str) -> str:
    """Returns what is counted as one: an IPv4 address, of IPv6 the /64 that one subscriber has. Anything else is itself, cut."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ip_network((parsed, 64), strict=False))
    return str(parsed)
