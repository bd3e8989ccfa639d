from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import psutil
import pytest
import redis.asyncio

from server.embedded import Parts, parts_for_command, running_instance, running_parts
from server.embedded.triton import triton_wheel
from server.errors import FailedPreconditionError, InvalidFieldError, UnavailableError
from tests.integration.embedded.hosting import StartHost, ready_host, start_process

Models = tuple[Path, dict[str, Path]]


@asynccontextmanager
async def _database_and_redis(data_dir: Path) -> AsyncIterator[Parts]:
    async with running_parts(
        data_dir=data_dir, database=True, redis=True, triton=False, model_files={}, model_repository=data_dir
    ) as running:
        yield running


async def _set(parts: Parts, value: str) -> None:
    async with redis.asyncio.from_url(parts.redis_url) as client:
        await client.set("whose", value)
    connection = await asyncpg.connect(parts.database_url)
    await connection.execute("CREATE TABLE IF NOT EXISTS whose (value text)")
    await connection.execute("INSERT INTO whose VALUES ($1)", value)
    await connection.close()


async def _get(parts: Parts) -> tuple[str, list[str]]:
    async with redis.asyncio.from_url(parts.redis_url, decode_responses=True) as client:
        text = await client.get("whose")
    connection = await asyncpg.connect(parts.database_url)
    rows = [row["value"] for row in await connection.fetch("SELECT value FROM whose")]
    await connection.close()
    assert isinstance(text, str)
    return text, rows


async def test_two_instances_do_not_meet_however_long_the_folder_is(data_dir: Path) -> None:
    """Instances on two folders, one of them too deep for a unix socket, each have their own database and Redis."""
    deep = data_dir.parent.joinpath("d" * 60, "e" * 60, "data")
    async with _database_and_redis(data_dir) as one, _database_and_redis(deep) as two:
        await _set(one, "one")
        await _set(two, "two")
        assert (await _get(one), await _get(two)) == (("one", ["one"]), ("two", ["two"]))
        sockets = Path(two.redis_url.removeprefix("unix://")).parent
        assert len(str(sockets)) < 60
        assert sockets.stat().st_mode & 0o077 == 0
    assert not sockets.exists()


async def test_a_second_instance_on_the_same_folder_is_refused(start_host: StartHost, data_dir: Path) -> None:
    """The refusal names the process that holds the folder, and that process is not disturbed."""
    host = start_host(data_dir)
    await _set(host.parts, "first")
    with pytest.raises(FailedPreconditionError, match=f"process {host.process.pid} .*AISLE_DATA_DIR"):
        async with _database_and_redis(data_dir):
            pass
    assert (await _get(host.parts))[0] == "first"


async def test_a_command_uses_the_running_instance_and_leaves_it_running(start_host: StartHost, data_dir: Path) -> None:
    """`parts_for_command` finds the instance on its folder; without one it runs the parts for as long as the command takes."""
    host = start_host(data_dir)
    async with parts_for_command(data_dir=data_dir) as found:
        assert found == host.parts
    await _set(host.parts, "still there")
    host.end(signal.SIGKILL)
    async with parts_for_command(data_dir=data_dir) as own:
        assert (await _get(own))[0] == "still there"
        instance = running_instance(data_dir)
        assert instance is not None
        assert instance.pid == os.getpid()
    assert running_instance(data_dir) is None


async def test_a_command_waits_for_an_instance_that_is_starting(start_host: StartHost, data_dir: Path) -> None:
    """A command begun while the parts of another process still start uses them once they answer."""
    starting = asyncio.create_task(asyncio.to_thread(start_host, data_dir))
    async with asyncio.timeout(20):
        while running_instance(data_dir) is None:  # noqa: ASYNC110  # another process takes the lock
            await asyncio.sleep(0.005)
    async with parts_for_command(data_dir=data_dir) as found:
        assert found == (await starting).parts


async def test_configured_urls_are_used_as_they_are(data_dir: Path) -> None:
    """With both URLs configured a command starts nothing and touches no folder."""
    nowhere = data_dir.parent / "nowhere"
    async with parts_for_command(data_dir=nowhere, configured_database_url="postgresql://db/x", configured_redis_url="redis://r") as parts:
        assert (parts.database_url, parts.redis_url) == ("postgresql://db/x", "redis://r")
    assert not nowhere.exists()


async def test_remains_of_a_killed_instance_are_cleared(data_dir: Path) -> None:
    """A stale `postmaster.pid` whose id another program has by now, stale sockets and a cut append-only file do not stop the start."""
    async with _database_and_redis(data_dir) as parts:
        await _set(parts, "before the cut")
    (data_dir / "postgres" / "postmaster.pid").write_text(f"{_unrelated_process()}\n{data_dir}/postgres\n0\n5432\n\n\n", encoding="ascii")
    (data_dir / "run" / "pg" / ".s.PGSQL.5432").write_bytes(b"")
    (data_dir / "run" / "redis.sock").write_bytes(b"")
    with (data_dir / "redis" / "appendonly.aof").open("ab") as log:
        log.write(b"*3\r\n$3\r\nSET\r\n$5\r\nwho")
    async with _database_and_redis(data_dir) as parts:
        assert (await _get(parts))[0] == "before the cut"


def _unrelated_process() -> int:
    """Returns the id of a living process that PostgreSQL could take for its predecessor: one of its own user, else any."""
    return next((process.pid for process in psutil.process_iter() if process.uids().real == 65534), os.getppid())


async def test_a_folder_that_cannot_be_written_is_named(data_dir: Path) -> None:
    """A data folder below a file is refused with its path and the setting to change."""
    blocked = data_dir.parent / "file"
    blocked.write_text("")
    with pytest.raises(InvalidFieldError, match=r"data_dir: .*file.*AISLE_DATA_DIR"):
        async with _database_and_redis(blocked / "data"):
            pass


async def test_a_database_of_another_version_is_refused(data_dir: Path) -> None:
    """A cluster of another PostgreSQL is not touched; the message says what to do."""
    other = data_dir.parent / "other"
    (other / "postgres").mkdir(parents=True)
    (other / "postgres" / "PG_VERSION").write_text("15\n")
    with pytest.raises(FailedPreconditionError, match="is of PostgreSQL 15 and this is 18"):
        async with _database_and_redis(other):
            pass


async def test_a_part_that_ends_at_once_says_why(data_dir: Path) -> None:
    """When a server cannot start, the error holds what it wrote, and the other servers are ended."""
    broken = data_dir.parent / "broken"
    (broken / "redis").mkdir(parents=True)
    (broken / "redis" / "appendonly.aof").write_bytes(b"this is no append-only file\r\n")
    with pytest.raises(UnavailableError, match=r"redis: ended with code 1 while starting: .*Bad file format.*redis\.log"):
        async with _database_and_redis(broken):
            pass
    assert [child for child in psutil.Process().children() if str(broken) in " ".join(child.cmdline())] == []


async def test_triton_that_cannot_load_a_model_is_a_note(data_dir: Path, doubler_models: Models) -> None:
    """A corrupt model costs Triton alone: the note names the model, and the other parts run."""
    repository, _ = doubler_models
    corrupt = data_dir.parent / "corrupt.onnx"
    corrupt.write_bytes(b"no model")
    async with running_parts(
        data_dir=data_dir, database=False, redis=True, triton=True, model_files={"doubler": corrupt}, model_repository=repository
    ) as parts:
        assert parts.triton_url == ""
        assert len(parts.notes) == 1
        assert "doubler" in parts.notes[0]
        async with redis.asyncio.from_url(parts.redis_url) as client:
            assert await client.ping()


def test_a_stub_without_its_python_library_is_recognized() -> None:
    """The loader's own word is used: the stub for a Python that is not installed lacks its library."""
    assert triton_wheel().missing_library() == ""
    assert triton_wheel("3.8").missing_library() == "libpython3.8.so.1.0"


@pytest.mark.skipif(os.geteuid() != 0, reason="the whole suite runs as a plain user already")
async def test_a_plain_user_runs_the_parts_too(data_dir: Path, doubler_models: Models) -> None:
    """Without root the servers run as the caller, from first start on."""
    repository, files = doubler_models
    home = data_dir.parent / "user"
    shutil.copytree(repository, home / "repository")
    built = shutil.copy(files["doubler"], home)
    os.chown(home, 65534, 65534)
    data_dir.parent.chmod(0o755)
    options = {"model_repository": home / "repository", "model_files": {"doubler": built}, "uid": 65534}
    process = start_process(home / "data", options)
    try:
        host = ready_host(process)
        assert host.parts.triton_url, host.parts.notes
        assert {user for child in host.family for user in child.uids()} == {65534}
        assert host.end(signal.SIGINT) == 0
        assert host.survivors() == []
    finally:
        process.kill()
        process.communicate()
