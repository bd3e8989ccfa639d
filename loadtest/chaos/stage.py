"""What a run happens on: embedded parts of its own, a small trained demo tenant, and the processes that serve it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import psutil
from redis.asyncio import Redis

from loadtest.chaos.clock import Clock, sweep
from loadtest.chaos.load import Address
from loadtest.chaos.relay import Relay
from server.cli.models import build_with_progress
from server.demo.generate import couples_with_journeys
from server.domain import TenantId
from server.embedded import Parts, running_parts
from server.embedded.child import log_tail
from server.embedded.triton import free_port
from server.settings import Settings
from server.store import open_database
from server.store.events import apply_events
from server.store.items import upsert_items
from server.store.migrate import migrate
from server.store.tenants import ensure_tenant
from server.store.users import User, upsert_users

TENANT = TenantId("demo")
COUPLES = 150
_VENDORS_A_CITY = 3
_READY_S = 180.0
_DISK_MB = 768
_ROOT = Path(__file__).resolve().parents[2]


class StageError(Exception):
    """The run cannot go on; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the stage is built. Faults of one layout share a stage."""

    workers: int = 2
    """Processes of one `aisle serve`, which share its ports."""
    apart: bool = False
    """A second `aisle serve` on ports of its own, which reaches Redis and PostgreSQL through relays."""
    small_disk: bool = False
    """The parts' data lies on a small file system of its own in memory. Needs root."""
    own_clock: bool = False
    """The servers' wall clock can be set; the parts and the callers keep the machine's. Needs libfaketime."""


class Server:
    """One `aisle serve`, started as an operator does."""

    def __init__(self, environment: dict[str, str], workers: int, log: Path) -> None:
        self._environment = environment
        self._workers = workers
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._ready = asyncio.Semaphore(0)

    @property
    def address(self) -> Address:
        """Where its doors are."""
        return Address(self._environment["AISLE_GRPC_ADDRESS"], self._environment["AISLE_HTTP_ADDRESS"])

    @property
    def root(self) -> psutil.Process:
        """Its first process."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def processes(self) -> list[psutil.Process]:
        """Returns the processes that serve."""
        return self.root.children() if self._workers > 1 else [self.root]

    async def start(self) -> float:
        """Returns the seconds until all of its processes were ready.

        Raises:
            StageError: It ended, or was not ready in time.
        """
        began = time.monotonic()
        command = [sys.executable, "-m", "server", "serve", "--workers", str(self._workers)]
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                cwd=_ROOT,
                env=self._environment,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                preexec_fn=_end_with_parent,  # one system call, and no thread holds a lock that it needs
            )
        self._reader = asyncio.create_task(self._read())
        try:
            async with asyncio.timeout(_READY_S):
                await self.ready(self._workers)
        except TimeoutError:
            raise StageError(f"the server was not ready within {_READY_S:g} s; see {self._log}") from None
        return time.monotonic() - began

    async def ready(self, count: int) -> None:
        """Returns once `count` more of its processes have said that they are ready."""
        for _ in range(count):
            await self._ready.acquire()
            if self._reader is not None and self._reader.done():
                raise StageError(f"the server ended: {log_tail(self._log, start=0, lines=3)}")

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            if line.startswith(b"aisle ready"):
                self._ready.release()
        for _ in range(self._workers):
            self._ready.release()  # it ended: nobody need wait for it

    async def stop(self) -> int:
        """Has it drain; returns its exit code."""
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        code = await self._process.wait()
        sweep(self._process.pid)
        if self._reader is not None:
            await asyncio.gather(self._reader, return_exceptions=True)
        self._ready = asyncio.Semaphore(0)
        self._process = None
        return code


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG


@dataclass
class Stage:
    """The running stage."""

    folder: Path
    parts: Parts
    servers: Sequence[Server]
    items: Sequence[str]
    """Names of items that exist."""
    parts_s: float
    """Seconds until the embedded parts answered, on an empty folder."""
    servers_s: float
    """Seconds until all serving processes were ready."""
    triton: Relay
    redis: Relay
    database: Relay
    disk: Path | None
    clock: Clock
    """The servers', where the layout gives them one of their own."""
    environment: dict[str, str] = field(repr=False)

    @property
    def addresses(self) -> list[Address]:
        """Where the servers' doors are."""
        return [server.address for server in self.servers]

    def family(self, program: str) -> list[psutil.Process]:
        """Returns an embedded part's first process and all its descendants; none while it is down."""
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # others come and go meanwhile
                parent = process.parent()
                if process.name() == program and parent is not None and parent.name() != program:
                    return [process, *process.children(recursive=True)]
        return []

    async def connect_database(self) -> asyncpg.Connection[asyncpg.Record]:
        """Returns a connection of the database's owner."""
        return await asyncpg.connect(self.parts.database_url, timeout=5)

    @asynccontextmanager
    async def redis_client(self) -> AsyncIterator[Redis]:
        """Yields a client of the embedded Redis."""
        async with Redis.from_url(self.parts.redis_url, socket_timeout=5) as client:
            yield client

    async def command(self, *words: str) -> str:
        """Runs an `aisle` command on the stage's database and returns what it printed.

        Raises:
            StageError: It failed.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "server",
            *words,
            cwd=_ROOT,
            # OpenBLAS's threads wait for each other by yielding, which beside busy processes costs minutes where one thread needs seconds.
            env={**self.environment, "OPENBLAS_NUM_THREADS": "1"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, complaint = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        if process.returncode:
            raise StageError(f"aisle {' '.join(words)} failed: {complaint.decode()[-500:]}")
        return out.decode()


@asynccontextmanager
async def open_stage(layout: Layout, *, say: Callable[[str], None]) -> AsyncIterator[Stage]:
    """Builds a stage in a temporary folder and yields it while everything serves; removes all of it at the end.

    Raises:
        StageError: A part or a server did not start.
    """
    encoder = build_with_progress(None, Settings().cache_dir)
    async with AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="aisle-chaos-", dir="/tmp"))  # short: sockets lie in it
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        data = folder / "data"
        data.mkdir()
        if layout.small_disk:
            await _mount(data, stack)
        began = time.monotonic()
        parts = await stack.enter_async_context(
            running_parts(
                data_dir=data,
                database=True,
                redis=True,
                triton=True,
                model_files={"text_encoder": encoder.onnx},
                model_repository=Settings().model_repository,
            )
        )
        parts_s = time.monotonic() - began
        if not parts.triton_url:
            raise StageError(f"no Triton: {'; '.join(parts.notes)}")
        say("making the tenant")
        await migrate(parts.database_url)
        items = await _fill(parts.database_url)
        triton, cache, database = Relay(parts.triton_url), Relay(data / "run" / "redis.sock"), Relay(data / "run/pg/.s.PGSQL.5432")
        triton_url = await stack.enter_async_context(triton.on_port())
        far = folder / "far"
        far.mkdir()
        if layout.apart:
            await stack.enter_async_context(cache.on_socket(far / "redis.sock"))
            await stack.enter_async_context(database.on_socket(far / ".s.PGSQL.5432"))
        environment = _environment(folder / "serve-0", parts.database_url, parts.redis_url, triton_url)
        clock = Clock(folder / "clock")
        clock.set(timedelta())
        clocked = clock.environment(environment) if layout.own_clock else environment
        servers = [Server(clocked, layout.workers, folder / "server-0.log")]
        if layout.apart:
            far_database = f"postgresql://aisle@/aisle?host={far}"
            second = _environment(folder / "serve-1", far_database, f"unix://{far / 'redis.sock'}", triton_url)
            servers.append(Server(second, layout.workers, folder / "server-1.log"))
        stage = Stage(
            folder, parts, servers, items, parts_s, 0.0, triton, cache, database, data if layout.small_disk else None, clock, environment
        )
        say("training its bundle")
        await stage.command("train", "--tenant", TENANT, "--promote", "--no-sequential")
        say("starting the servers")
        for server in servers:
            stack.push_async_callback(server.stop)
        stage.servers_s = max(await asyncio.gather(*(server.start() for server in servers)))
        yield stage


async def _mount(folder: Path, stack: AsyncExitStack) -> None:
    command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MB}m,mode=0711", "aisle-chaos", str(folder)]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, complaint = await process.communicate()
    if process.returncode:
        raise StageError(f"cannot mount a small file system: {complaint.decode().strip()}")

    async def unmount() -> None:
        await (await asyncio.create_subprocess_exec("umount", "--lazy", str(folder))).wait()

    stack.push_async_callback(unmount)


def _environment(data_dir: Path, database_url: str, redis_url: str, triton_url: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("AISLE_")}
    paths = os.pathsep.join(str(_ROOT / part) for part in ("", "proto/gen", "clients/python"))
    return {
        **own,
        "PYTHONPATH": paths,
        "AISLE_CACHE_DIR": str(Settings().cache_dir),
        "AISLE_DATA_DIR": str(data_dir),
        "AISLE_WORKER_NAME": data_dir.name,
        "AISLE_GRPC_ADDRESS": f"127.0.0.1:{free_port()}",
        "AISLE_HTTP_ADDRESS": f"127.0.0.1:{free_port()}",
        "AISLE_DATABASE_URL": database_url,
        "AISLE_REDIS_URL": redis_url,
        "AISLE_TRITON_URL": triton_url,
        "AISLE_LOCAL_TENANT": TENANT,
        "AISLE_LOG_LEVEL": "warning",
    }


async def _fill(database_url: str) -> list[str]:
    """Makes the tenant; returns the names of its items."""
    catalogue, journeys = couples_with_journeys(COUPLES, 7, datetime.now(UTC), vendors_a_city=_VENDORS_A_CITY)
    couples = list(journeys)
    async with open_database(database_url, max_connections=2) as database:
        async with database.system() as connection:
            await ensure_tenant(connection, TENANT)
        async with database.tenant(TENANT) as connection:
            users = [
                User(user_id=one.user_id, traits=one.traits, locale=one.locale, time_zone=one.time_zone, event_date=one.event_date)
                for one, _ in couples
            ]
            await upsert_users(connection, users)
            await apply_events(connection, TENANT, [event for _, events in couples for event in events])
            await upsert_items(connection, catalogue)
    return [f"items/{item.item_id}" for item in catalogue if not item.content_type]
