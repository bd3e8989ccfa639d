"""Fixtures of the whole suite. Parts are real: the wheels' PostgreSQL, Redis and Triton, one set a test session."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from server.embedded import Parts, running_parts

pytest_plugins = ["tests.fixtures_store"]


@pytest.fixture(scope="session")
def short_dir() -> Iterator[Path]:
    """A folder with a short path, so that sockets lie inside it."""
    folder = Path(tempfile.mkdtemp(prefix="aisle-t-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
async def parts(short_dir: Path) -> AsyncIterator[Parts]:
    """A running database `aisle` (empty: migrate it, or make your own database) and Redis."""
    async with running_parts(
        data_dir=short_dir / "data", database=True, redis=True, triton=False, model_files={}, model_repository=short_dir
    ) as running:
        yield running
