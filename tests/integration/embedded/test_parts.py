from __future__ import annotations

import asyncpg
import redis.asyncio

from server.embedded import Parts


async def test_the_embedded_database_has_pgvector(parts: Parts) -> None:
    """Vectors can be stored and compared in the embedded database."""
    connection = await asyncpg.connect(parts.database_url)
    try:
        await connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        assert await connection.fetchval("SELECT '[1,2]'::vector <-> '[1,4]'::vector") == 2.0
    finally:
        await connection.close()


async def test_the_embedded_redis_syncs_before_it_acknowledges(parts: Parts) -> None:
    """The embedded Redis writes its append-only file to disk before each reply, and never evicts."""
    async with redis.asyncio.from_url(parts.redis_url, decode_responses=True) as client:
        assert await client.ping()
        assert (await client.config_get("append*"))["appendfsync"] == "always"
        assert (await client.config_get("maxmemory-policy")) == {"maxmemory-policy": "noeviction"}
