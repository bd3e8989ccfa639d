"""Redis clients. `tests/conftest.py` of the integration folders loads this as a plugin."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from server.embedded import Parts
from server.stream import connect
from tests.redis_server import OwnRedis


@pytest.fixture
async def redis_client(parts: Parts) -> AsyncIterator[Redis]:
    """A client of the session's Redis."""
    async with connect(parts.redis_url, timeout_s=5.0) as client:
        yield client


@pytest.fixture
async def own_redis() -> AsyncIterator[OwnRedis]:
    """A running Redis that the test may kill."""
    folder = Path(tempfile.mkdtemp(prefix="aisle-r-", dir="/tmp"))
    server = OwnRedis(folder)
    await server.start()
    yield server
    await server.kill()
    shutil.rmtree(folder, ignore_errors=True)
