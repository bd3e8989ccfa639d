"""All embedded parts together: started in parallel, announced to other commands, stopped in reverse."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from server.embedded.child import Child
from server.embedded.folders import DataFolder, Instance, Parts, private_folder, running_instance, socket_folder
from server.embedded.postgres import database_url, make_database, postgres_server
from server.embedded.redis import redis_server, redis_url
from server.embedded.triton import TritonWheel, assemble_repository, free_port, runnable_wheel, triton_server
from server.errors import AisleError, FailedPreconditionError, UnavailableError

_PORT_ATTEMPTS = 3
_SETTLE_S = 20.0
"""How long a command waits for an instance that is starting, or that is another command's, in seconds."""


def _silent(_line: str) -> None:
    """Progress for callers who show none."""


@asynccontextmanager
async def running_parts(
    *,
    data_dir: Path,
    database: bool,
    redis: bool,
    triton: bool,
    model_files: Mapping[str, Path],
    model_repository: Path,
    progress: Callable[[str], None] = _silent,
) -> AsyncIterator[Parts]:
    """Runs the asked-for parts in `data_dir` and yields where they answer.

    A part that dies is started again, on the same address. All end with the block, and with this process however it ends. Triton is a
    convenience: where it cannot run, its URL is empty and a note says why, and the rest goes on.

    Args:
        data_dir: State of the parts; made if missing. One instance at a time.
        database: Whether to run PostgreSQL.
        redis: Whether to run Redis.
        triton: Whether to run Triton.
        model_files: Model name -> built `model.onnx`; Triton starts with these.
        model_repository: Folder of `<model>/config.pbtxt`.
        progress: Called with one line whenever a part answers or is left out.

    Raises:
        InvalidFieldError: `data_dir` cannot be written.
        FailedPreconditionError: Another instance runs on `data_dir`, or a wheel is missing.
        UnavailableError: PostgreSQL or Redis did not start; the message holds the end of its log.
    """
    if sys.platform != "linux" and (database or redis or triton):
        raise FailedPreconditionError("the embedded parts run on Linux; set AISLE_DATABASE_URL, AISLE_REDIS_URL and AISLE_TRITON_URL")
    data_dir = await asyncio.to_thread(private_folder, data_dir)
    async with AsyncExitStack() as stack:
        folder = await stack.enter_async_context(DataFolder(data_dir))
        sockets = socket_folder(data_dir)
        if not sockets.is_relative_to(data_dir):
            stack.callback(shutil.rmtree, sockets, ignore_errors=True)
        start = _Starter(folder, sockets, stack, progress)
        database_task = asyncio.create_task(start.database() if database else _absent())
        redis_task = asyncio.create_task(start.redis() if redis else _absent())
        triton_task = asyncio.create_task(start.triton(model_repository, model_files) if triton else _absent())
        try:
            await asyncio.gather(database_task, redis_task, triton_task)
        except OSError as error:
            message = f"cannot start the embedded parts: {error}; look at the space and the permissions of {data_dir}"
            raise FailedPreconditionError(message, data_dir=data_dir) from error
        finally:
            # One failed or all were cancelled: the rest must not go on starting while the stack unwinds.
            for task in (database_task, redis_task, triton_task):
                task.cancel()
            await asyncio.gather(database_task, redis_task, triton_task, return_exceptions=True)
        triton_url, note = triton_task.result()
        parts = Parts(
            database_url=database_task.result()[0],
            redis_url=redis_task.result()[0],
            triton_url=triton_url,
            triton_repository=data_dir / "triton" / "models" if triton_url else None,
            notes=(note,) if note else (),
        )
        folder.announce(parts)
        yield parts


async def _absent() -> tuple[str, str]:
    return "", ""


class _Starter:
    """Starts single parts into one exit stack. Each returns where the part answers, and a note if it does not."""

    def __init__(self, folder: DataFolder, sockets: Path, stack: AsyncExitStack, progress: Callable[[str], None]) -> None:
        self._data_dir = folder.path
        self._lock_fd = folder.lock_fd
        self._sockets = sockets
        self._stack = stack
        self._progress = progress

    async def database(self) -> tuple[str, str]:
        if not (self._data_dir / "postgres").exists():
            self._progress("PostgreSQL: making the database cluster")
        spec = await postgres_server(data_dir=self._data_dir, sockets=self._sockets, lock_fd=self._lock_fd)
        await self._stack.enter_async_context(Child(spec, lock_fd=self._lock_fd))
        await make_database(self._sockets)
        self._progress("PostgreSQL answers")
        return database_url(self._sockets), ""

    async def redis(self) -> tuple[str, str]:
        spec = redis_server(data_dir=self._data_dir, sockets=self._sockets)
        await self._stack.enter_async_context(Child(spec, lock_fd=self._lock_fd))
        self._progress("Redis answers")
        return redis_url(self._sockets), ""

    async def triton(self, model_repository: Path, model_files: Mapping[str, Path]) -> tuple[str, str]:
        """Returns HOST:PORT and an empty note, or an empty string and why there is no Triton."""
        try:
            wheel = await asyncio.to_thread(runnable_wheel)
            models = assemble_repository(self._data_dir / "triton" / "models", model_repository=model_repository, model_files=model_files)
            port = await self._triton_on_free_port(wheel, models)
        except (AisleError, OSError) as error:
            note = f"no Triton, the local runtime serves: {error}"
            self._progress(note)
            return "", note
        self._progress(f"Triton answers on 127.0.0.1:{port}")
        return f"127.0.0.1:{port}", ""

    async def _triton_on_free_port(self, wheel: TritonWheel, models: list[str]) -> int:
        threads = len(os.sched_getaffinity(0))
        for attempt in itertools.count():
            port = free_port()
            spec = triton_server(data_dir=self._data_dir, port=port, wheel=wheel, models=models, threads=threads)
            try:
                await self._stack.enter_async_context(Child(spec, lock_fd=self._lock_fd))
            except UnavailableError as error:
                # Someone may take the port between the look and the start.
                if attempt == _PORT_ATTEMPTS or "in use" not in error.message:
                    raise
            else:
                return port
        raise AssertionError


@asynccontextmanager
async def parts_for_command(
    *,
    data_dir: Path,
    configured_database_url: str = "",
    configured_redis_url: str = "",
    redis: bool = True,
    progress: Callable[[str], None] = _silent,
) -> AsyncIterator[Parts]:
    """Yields a database (and a Redis) for one command: the configured, else the running instance's, else its own for the duration.

    Args:
        data_dir: Where the running instance is looked for, and where own parts keep their state.
        configured_database_url: `AISLE_DATABASE_URL`; empty: embedded.
        configured_redis_url: `AISLE_REDIS_URL`; empty: embedded.
        redis: Whether the command needs Redis.
        progress: See `running_parts`.

    Raises:
        FailedPreconditionError: The instance on `data_dir` runs without a needed part.
        UnavailableError: A part did not start.
    """
    need_database = not configured_database_url
    need_redis = redis and not configured_redis_url
    async with AsyncExitStack() as stack:
        found = Parts("", "", "", None, ())
        if need_database or need_redis:
            instance = await _settled_instance(data_dir, database=need_database, redis=need_redis, progress=progress)
            if instance is not None:
                found = instance.parts
            else:
                found = await stack.enter_async_context(
                    running_parts(
                        data_dir=data_dir,
                        database=need_database,
                        redis=need_redis,
                        triton=False,
                        model_files={},
                        model_repository=data_dir,
                        progress=progress,
                    )
                )
        yield Parts(
            database_url=configured_database_url or found.database_url,
            redis_url=(configured_redis_url or found.redis_url) if redis else "",
            triton_url=found.triton_url,
            triton_repository=found.triton_repository,
            notes=found.notes,
        )


async def _settled_instance(data_dir: Path, *, database: bool, redis: bool, progress: Callable[[str], None]) -> Instance | None:
    """Returns the running instance once it has the needed parts, or None once there is none.

    Raises:
        FailedPreconditionError: It still runs without them after a while.
    """
    patience = time.monotonic() + _SETTLE_S
    waiting = False
    while True:
        instance = running_instance(data_dir)
        if instance is None or ((instance.parts.database_url or not database) and (instance.parts.redis_url or not redis)):
            return instance
        if time.monotonic() > patience:
            raise FailedPreconditionError(
                f"process {instance.pid} ({instance.command}) uses {data_dir} without the parts this command needs; wait, or stop it",
                pid=instance.pid,
            )
        if not waiting:
            progress(f"waiting for process {instance.pid} ({instance.command})")
            waiting = True
        await asyncio.sleep(0.1)
