from __future__ import annotations

from tests.fixtures_stream import own_redis, redis_client

__all__ = ["own_redis", "redis_client"]
