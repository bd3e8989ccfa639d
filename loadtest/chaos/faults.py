"""The faults: how each is brought about, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
from collections.abc import Sequence
from datetime import timedelta
from typing import ClassVar

import asyncpg
import psutil

from loadtest.chaos.clock import LIBFAKETIME, MISSING
from loadtest.chaos.load import Load
from loadtest.chaos.stage import TENANT, Layout, Stage, StageError
from server.stream.codec import unpack
from server.stream.consumer import PAYLOAD

_SLOW_S = 0.3
_STAMPED_WITHIN = timedelta(minutes=5)
PAIR = Layout()
APART = Layout(workers=1, apart=True)
SMALL_DISK = Layout(small_disk=True)
OWN_CLOCK = Layout(own_clock=True)


class Fault:
    """One fault. The docstring of a class is what the table says of it."""

    layout: ClassVar[Layout] = PAIR
    hold_s: ClassVar[float | None] = None
    """Seconds between `inject` and `heal`. None: what the command line says."""
    read_limit: ClassVar[float] = 0.01
    """Largest share of reads that may fail, from the injection until all is well again."""
    write_limit: ClassVar[float] = 0.01
    """The same of writes. 1 where Redis, which acknowledges, is what is down: refusing is right then."""
    skipped: ClassVar[str] = ""
    """Why it cannot be brought about here; empty when it can."""

    def __init__(self, stage: Stage, load: Load) -> None:
        """Stores where it is brought about, and the load meanwhile."""
        self.stage = stage
        self.load = load
        self.excused: set[str] = set()
        """Ids of acknowledged events that the fault itself deletes."""

    async def prepare(self) -> None:
        """Does what must be done before and is not to be measured."""

    async def inject(self) -> None:
        """Brings it about."""

    async def heal(self) -> None:
        """Ends it. Nothing where the server's own supervision does."""

    async def settle(self) -> None:
        """Waits for what the next fault needs; not measured."""


class _Killed(Fault):
    hold_s = 0.0
    program: ClassVar[str]

    async def inject(self) -> None:
        family = self.stage.family(self.program)
        if not family:
            raise StageError(f"{self.program} does not run")
        family[0].kill()


class _Stopped(Fault):
    program: ClassVar[str]

    def __init__(self, stage: Stage, load: Load) -> None:
        super().__init__(stage, load)
        self._family: Sequence[psutil.Process] = ()

    async def inject(self) -> None:
        self._family = self.stage.family(self.program)
        for process in self._family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP)

    async def heal(self) -> None:
        for process in self._family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


class TritonKilled(_Killed):
    """`kill -9` of tritonserver."""

    program = "tritonserver"


class TritonHung(_Stopped):
    """`SIGSTOP` of tritonserver and its model processes."""

    program = "tritonserver"


class TritonSlow(Fault):
    """Each request to Triton held up by 300 ms."""

    async def inject(self) -> None:
        self.stage.triton.delay_s = _SLOW_S

    async def heal(self) -> None:
        self.stage.triton.delay_s = 0.0


class RedisKilled(_Killed):
    """`kill -9` of redis-server."""

    program = "redis-server"
    write_limit = 1.0


class RedisPaused(_Stopped):
    """`SIGSTOP` of redis-server."""

    program = "redis-server"
    write_limit = 1.0


class RedisFull(Fault):
    """`maxmemory 1`, `noeviction`."""

    write_limit = 1.0

    async def inject(self) -> None:
        await self._limit(1)

    async def heal(self) -> None:
        await self._limit(0)

    async def _limit(self, size_bytes: int) -> None:
        async with self.stage.redis_client() as client:
            await client.config_set("maxmemory", size_bytes)


class RedisFlushed(Fault):
    """`FLUSHALL`, which deletes acknowledged events that PostgreSQL does not have yet: those are counted apart."""

    hold_s = 0.0

    async def inject(self) -> None:
        async with self.stage.redis_client() as client, client.pipeline(transaction=True) as pipeline:
            pipeline.xrange(f"aisle:{{{TENANT}}}:events")
            pipeline.flushall()
            entries, _ = await pipeline.execute()
        self.excused = {record["id"] for _, fields in entries for record in unpack(fields[PAYLOAD])}


class PostgresKilled(_Killed):
    """`kill -9` of the postmaster."""

    program = "postgres"


class PostgresPaused(_Stopped):
    """`SIGSTOP` of PostgreSQL with all its backends."""

    program = "postgres"


class PostgresFull(Fault):
    """All connections taken by another program, Aisle's ended."""

    def __init__(self, stage: Stage, load: Load) -> None:
        super().__init__(stage, load)
        self._taken: list[asyncpg.Connection[asyncpg.Record]] = []

    async def inject(self) -> None:
        first = await self.stage.connect_database()
        self._taken.append(first)
        for _ in range(20):
            await self._take_all()
            ended = await first.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'aisle' AND pid <> pg_backend_pid()"
            )
            if not ended:
                return

    async def _take_all(self) -> None:
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            while True:
                self._taken.append(await self.stage.connect_database())

    async def heal(self) -> None:
        for connection in self._taken:
            connection.terminate()
        self._taken.clear()


class DiskFull(Fault):
    """The file system under Redis and PostgreSQL filled to the last byte."""

    layout = SMALL_DISK
    write_limit = 1.0
    skipped = "" if os.geteuid() == 0 else "mounting a small file system needs root"

    async def inject(self) -> None:
        assert self.stage.disk is not None
        with (self.stage.disk / "ballast").open("wb", buffering=0) as file:
            size_bytes = 1024 * 1024
            while size_bytes >= 1:
                try:
                    file.write(bytes(size_bytes))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size_bytes //= 16

    async def heal(self) -> None:
        assert self.stage.disk is not None
        (self.stage.disk / "ballast").unlink(missing_ok=True)


class SendersClockAhead(Fault):
    """The clocks of those who send events jump 23 hours ahead."""

    async def inject(self) -> None:
        self.load.clock_ahead = timedelta(hours=23)

    async def heal(self) -> None:
        self.load.clock_ahead = timedelta()


class _ClockJumped(Fault):
    layout = OWN_CLOCK
    skipped = MISSING
    jump: ClassVar[timedelta]

    async def prepare(self) -> None:
        self.load.undated = True

    async def inject(self) -> None:
        self.stage.clock.set(self.jump)

    async def heal(self) -> None:
        self.stage.clock.set(timedelta())

    async def settle(self) -> None:
        """Makes sure that the clock did jump: the servers stamped events by it that the database received by the machine's."""
        connection = await self.stage.connect_database()
        try:
            stamped = await connection.fetchval(
                "SELECT count(*) FROM events WHERE user_id LIKE 'load-%' AND occur_time - receive_time BETWEEN $1 AND $2",
                self.jump - _STAMPED_WITHIN,
                self.jump + _STAMPED_WITHIN,
            )
        finally:
            await connection.close()
        if not stamped:
            raise StageError(f"the servers' clock did not jump, so the fault showed nothing: {LIBFAKETIME} did not reach them")


class ClockAhead(_ClockJumped):
    """The servers' wall clock jumps an hour ahead, and in the end back."""

    jump = timedelta(hours=1)


class ClockBehind(_ClockJumped):
    """The servers' wall clock jumps an hour back, and in the end ahead."""

    jump = timedelta(hours=-1)


class WorkerKilled(Fault):
    """`kill -9` of one of two `--workers`."""

    hold_s = 0.0
    read_limit = write_limit = 0.05  # what it was at work on is lost to its callers

    async def inject(self) -> None:
        self.stage.servers[0].processes()[-1].kill()

    async def settle(self) -> None:
        await self.stage.servers[0].ready(1)


class WorkerHung(_Stopped):
    """`SIGSTOP` of one of two `--workers`: its callers wait until their deadline."""

    read_limit = write_limit = 1.0  # only a client or a proxy that gives up on it could do better

    async def inject(self) -> None:
        self._family = self.stage.servers[0].processes()[-1:]
        self._family[0].send_signal(signal.SIGSTOP)


class ReplicaPartitioned(Fault):
    """One of two replicas cut off from Redis and PostgreSQL, its clients not."""

    layout = APART
    write_limit = 1.0

    async def inject(self) -> None:
        self.stage.redis.deaf = self.stage.database.deaf = True

    async def heal(self) -> None:
        self.stage.redis.deaf = self.stage.database.deaf = False


class RollingRestart(Fault):
    """Both replicas stopped with SIGTERM and started again, one after the other."""

    layout = APART
    hold_s = 0.0
    read_limit = write_limit = 0.0

    async def inject(self) -> None:
        for server in self.stage.servers:
            code = await server.stop()
            if code:
                raise StageError(f"a server that was told to stop ended with code {code}")
            await server.start()
            await asyncio.sleep(2.0)  # clients find it again, as they do between two steps of a deployment


class BundleSwapped(Fault):
    """Another bundle promoted, then rolled back."""

    layout = APART
    read_limit = write_limit = 0.0

    async def prepare(self) -> None:
        out = await self.stage.command("train", "--tenant", TENANT, "--no-sequential", "--goal-weights", "save=5,book=1")
        self._other = out.split()[-2].removeprefix("bundles/")

    async def inject(self) -> None:
        await self.stage.command("bundles", "promote", self._other, "--tenant", TENANT)

    async def heal(self) -> None:
        await self.stage.command("bundles", "rollback", "--tenant", TENANT)


FAULTS: dict[str, type[Fault]] = {
    "triton killed": TritonKilled,
    "triton hung": TritonHung,
    "triton slow": TritonSlow,
    "redis killed": RedisKilled,
    "redis paused": RedisPaused,
    "redis full": RedisFull,
    "redis flushed": RedisFlushed,
    "postgres killed": PostgresKilled,
    "postgres paused": PostgresPaused,
    "postgres out of connections": PostgresFull,
    "worker killed": WorkerKilled,
    "worker hung": WorkerHung,
    "senders' clock ahead": SendersClockAhead,
    "clock ahead": ClockAhead,
    "clock behind": ClockBehind,
    "replica partitioned": ReplicaPartitioned,
    "rolling restart": RollingRestart,
    "bundle swapped": BundleSwapped,
    "disk full": DiskFull,
}
"""By the name that the table and the command line give them, in the order in which they are run."""
