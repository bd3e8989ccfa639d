from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import psutil
import pytest
import redis.asyncio
import redis.exceptions

from server.embedded import Parts, running_parts
from server.embedded.triton import triton_answers
from server.telemetry import PART_RESTARTS, PART_UP
from tests.integration.embedded.hosting import StartHost

Models = tuple[Path, dict[str, Path]]


async def _remember(parts: Parts, key: str) -> None:
    connection = await asyncpg.connect(parts.database_url)
    await connection.execute("CREATE TABLE IF NOT EXISTS remembered (key text)")
    await connection.execute("INSERT INTO remembered VALUES ($1)", key)
    await connection.close()
    async with redis.asyncio.from_url(parts.redis_url) as client:
        await client.sadd("remembered", key)


async def _remembered(parts: Parts) -> tuple[set[str], set[str]]:
    connection = await asyncpg.connect(parts.database_url)
    rows = {str(row["key"]) for row in await connection.fetch("SELECT key FROM remembered")}
    await connection.close()
    async with redis.asyncio.from_url(parts.redis_url, decode_responses=True) as client:
        return rows, set(await client.smembers("remembered"))


async def _all_answer(parts: Parts) -> bool:
    try:
        await _remembered(parts)
    except (OSError, asyncpg.PostgresError, redis.exceptions.RedisError):
        return False
    return await triton_answers(parts.triton_url)


async def test_nothing_outlives_the_parent_and_nothing_acknowledged_is_lost(
    start_host: StartHost, data_dir: Path, doubler_models: Models
) -> None:
    """However the parent ends, every descendant ends; the next start on the folder, at once, finds all that was acknowledged."""
    repository, files = doubler_models
    written: set[str] = set()
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        host = start_host(data_dir, model_repository=repository, model_files=files)
        names = {process.name() for process in host.family}
        assert {"postgres", "redis-server", "tritonserver", "triton_python_backend_stub"} <= names
        assert await triton_answers(host.parts.triton_url)
        written.add(number.name)
        await _remember(host.parts, number.name)
        assert await _remembered(host.parts) == (written, written)
        assert host.end(number) == (0 if number == signal.SIGINT else -number)
        if number != signal.SIGKILL:
            assert await asyncio.to_thread(host.survivors) == []
    assert (data_dir / "run" / "lock").exists()


async def test_servers_end_even_when_their_guards_are_killed_with_the_parent(
    start_host: StartHost, data_dir: Path, doubler_models: Models
) -> None:
    """Killing the parent and all guards at once leaves nothing either, and the folder can be used again."""
    repository, files = doubler_models
    host = start_host(data_dir, model_repository=repository, model_files=files)
    guards = psutil.Process(host.process.pid).children()
    assert len(guards) == 3
    for process in (host.process, *guards):
        process.kill()
    assert await asyncio.to_thread(host.survivors) == []


@pytest.fixture(scope="module")
async def supervised(data_dir: Path, doubler_models: Models) -> AsyncIterator[Parts]:
    """All three parts as children of this process, on the folder the test above left."""
    repository, files = doubler_models
    async with running_parts(
        data_dir=data_dir, database=True, redis=True, triton=True, model_files=files, model_repository=repository
    ) as running:
        yield running


@pytest.mark.parametrize(
    ("part", "program", "guard"),
    [
        ("database", "postgres", False),
        ("redis", "redis-server", False),
        ("triton", "tritonserver", False),
        ("database", "postgres", True),
        ("redis", "redis-server", True),
        ("triton", "tritonserver", True),
    ],
)
async def test_a_killed_part_comes_back_on_the_same_address(
    supervised: Parts, data_dir: Path, part: str, program: str, *, guard: bool
) -> None:
    """A part killed by SIGKILL, or whose guard was, answers again where it did with all it had acknowledged; its old children are gone."""
    key = f"{part}-{guard}"
    await _remember(supervised, key)
    server = _server(program, data_dir)
    family = [server, *server.children(recursive=True)]
    before = _restarts(part)
    victim = server.parent() if guard else server
    assert victim is not None
    victim.kill()
    async with asyncio.timeout(40):
        while _restarts(part) == before or not await _all_answer(supervised):  # noqa: ASYNC110  # the part is another process
            await asyncio.sleep(0.1)
    _, alive = await asyncio.to_thread(psutil.wait_procs, family, 10)
    assert alive == []
    rows, members = await _remembered(supervised)
    assert key in rows & members
    async with asyncio.timeout(10):
        while PART_UP.labels(part)._value.get() != 1.0:  # noqa: ASYNC110  # the probe that sets it is not ours to await
            await asyncio.sleep(0.05)


def _server(program: str, data_dir: Path) -> psutil.Process:
    """Returns the one server of that name below this process's guards that works in `data_dir`."""
    guards = psutil.Process().children()
    return next(
        process
        for guard in guards
        for process in guard.children()
        if process.name() == program and any(str(data_dir) in word for word in guard.cmdline())
    )


def _restarts(part: str) -> float:
    return float(PART_RESTARTS.labels(part)._value.get())
