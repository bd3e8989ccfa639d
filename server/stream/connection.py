"""The Redis client and the names of keys."""

from __future__ import annotations

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, ConnectionError, ReadOnlyError, TimeoutError  # noqa: A004  # redis's names for its own errors

from server.domain import TenantId

LOST: tuple[type[Exception], ...] = (ConnectionError, TimeoutError, BusyLoadingError, ReadOnlyError, OSError)
"""What a command raises when Redis is down, starting, or no longer the primary: nothing is wrong with the command."""


def connect(url: str, *, timeout_s: float) -> redis.asyncio.Redis:
    """Returns a client that answers or fails within `timeout_s` a command and never retries by itself. Opens nothing yet.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        timeout_s: Seconds for connecting, and again for one answer. A reader that blocks needs more than it blocks for.
    """
    client: redis.asyncio.Redis = redis.asyncio.from_url(
        url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0), protocol=2
    )
    return client


def stream_key(tenant_id: TenantId, stream: str) -> str:
    """Returns the key of a tenant's stream. The braces keep a tenant's keys in one slot of a Redis Cluster."""
    return f"aisle:{{{tenant_id}}}:{stream}"
