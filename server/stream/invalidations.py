"""What changed, told to every replica by Redis pub/sub.

Delivery is at most once: whoever caches must also let entries expire, and forget all when `listen` says that messages may be missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import orjson
import redis.asyncio
from redis.exceptions import RedisError

from server.domain import TenantId
from server.telemetry import logger

CHANNEL = "aisle:invalidations"
_log = logger(__name__)

Heard = Callable[[TenantId, str, Sequence[str]], None]
"""Called with tenant, kind and keys. All three empty: messages were missed, so anything may have changed."""


class Invalidations:
    """The channel of invalidations, both ends. A sender hears its own messages too."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis = client

    async def publish(self, tenant_id: TenantId, kind: str, keys: Sequence[str]) -> None:
        """Tells every listening replica that these keys of a kind changed.

        Raises:
            redis.exceptions.RedisError, OSError: Redis is down, and nobody was told.
        """
        await self._redis.publish(CHANNEL, orjson.dumps([tenant_id, kind, list(keys)]))

    @asynccontextmanager
    async def listen(self, heard: Heard) -> AsyncIterator[None]:
        """Calls `heard` on the event loop for each message while the context is open. Reconnects by itself."""
        listener = asyncio.create_task(self._listen_forever(heard), name="invalidations")
        try:
            yield
        finally:
            # Asked again: the client loses a cancellation that meets the opening of its connection.
            while not listener.done():
                listener.cancel()
                await asyncio.wait({listener}, timeout=0.5)

    async def _listen_forever(self, heard: Heard) -> None:
        pause_s = 0.05
        while True:
            try:
                async with self._redis.pubsub() as subscription:
                    await subscription.subscribe(CHANNEL)
                    heard(TenantId(""), "", ())
                    pause_s = 0.05
                    while True:
                        # A timeout of its own, as the client's is meant for commands.
                        message = await subscription.get_message(ignore_subscribe_messages=True, timeout=5.0)
                        if message is not None:
                            tenant_id, kind, keys = orjson.loads(message["data"])
                            heard(TenantId(tenant_id), kind, keys)
            except (RedisError, OSError) as error:
                _log.warning("invalidations_lost", error=str(error), retry_s=pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, 1.0)
