"""`aisle up` as a process: stopped under load, killed, and started again on the same folder."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import grpc
import httpx
import psutil
import pytest

from aisle.v1 import event_service_pb2 as events
from aisle.v1 import recommendation_service_pb2 as pb
from server.embedded import Parts
from server.embedded.folders import running_instance
from server.inference import BuiltEncoder
from server.store import Database
from tests.eventually import eventually
from tests.ports import free_port

_ROOT = Path(__file__).resolve().parents[3]
_READY = re.compile(r"aisle ready grpc=(\S+) http=http://(\S+) key=(\S+) tenant=(\S+)")


@dataclass(frozen=True, slots=True)
class Running:
    """A process that serves, and all that it started."""

    process: subprocess.Popen[str]
    grpc_address: str
    http_address: str
    key: str
    family: tuple[psutil.Process, ...]

    def end(self, number: signal.Signals) -> int:
        """Sends a signal; returns the exit code once the whole family is gone."""
        self.process.send_signal(number)
        code = self.process.wait(timeout=60)
        _, alive = psutil.wait_procs(self.family, timeout=30)
        assert [f"{one.pid} {one.name()}" for one in alive] == []
        return code


def _environment(data_dir: Path, **values: str) -> dict[str, str]:
    paths = os.pathsep.join(str(_ROOT / part) for part in ("", "proto/gen", "clients/python"))
    own = {name: value for name, value in os.environ.items() if not name.startswith("AISLE_")}
    doors = {"AISLE_GRPC_ADDRESS": "127.0.0.1:0", "AISLE_HTTP_ADDRESS": "127.0.0.1:0"}
    return {**own, "PYTHONPATH": paths, "AISLE_DATA_DIR": str(data_dir), **doors, **values}


@pytest.fixture(scope="module")
def data_dir(short_dir: Path, encoder: BuiltEncoder) -> Path:
    """The folder of all instances of this module, one after the other. The encoder is built before any starts."""
    return short_dir / "processes"


def _up_process(data_dir: Path) -> subprocess.Popen[str]:
    with data_dir.with_suffix(".log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "server", "up", "--no-demo"],
            cwd=data_dir.parent,
            env=_environment(data_dir),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )


@asynccontextmanager
async def up(data_dir: Path) -> AsyncIterator[Running]:
    """Starts `aisle up --no-demo` and yields once it is ready. What still runs at the end is killed."""
    process = _up_process(data_dir)
    try:
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        found = _READY.match(line)
        assert found is not None, f"{line!r}; see {data_dir}.log"
        family = tuple(psutil.Process(process.pid).children(recursive=True))
        yield Running(process, found[1], found[2], found[3], family)
    finally:
        process.kill()
        process.communicate()


class Callers:
    """Both doors in use: reads and writes, and how each ended."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self.codes: Counter[grpc.StatusCode] = Counter()
        self.statuses: Counter[int] = Counter()
        self.refused: Counter[str] = Counter()
        self.acknowledged: set[str] = set()

    async def by_grpc(self) -> None:
        """Reads and writes in turns until the door is shut, every call on the one channel."""
        metadata = (("authorization", f"Bearer {self._running.key}"),)
        async with grpc.aio.insecure_channel(self._running.grpc_address) as channel:
            read = channel.unary_unary("/aisle.v1.RecommendationService/RecommendItems", _bytes, pb.RecommendItemsResponse.FromString)
            write = channel.unary_unary("/aisle.v1.EventService/IngestEvents", _bytes, events.IngestEventsResponse.FromString)
            while True:
                event = events.Event(event_id=uuid.uuid4().hex, user="users/a", item="items/i1", event_type="view")
                try:
                    await write(events.IngestEventsRequest(events=[event]), timeout=10, metadata=metadata)
                    self.acknowledged.add(event.event_id)
                    await read(pb.RecommendItemsRequest(user="users/a", max_results=3), timeout=10, metadata=metadata)
                except grpc.aio.AioRpcError as error:
                    self.codes[error.code()] += 1
                    return
                self.codes[grpc.StatusCode.OK] += 1

    async def by_http(self) -> None:
        """The same by HTTP, on one connection that is kept alive."""
        headers = {"authorization": f"Bearer {self._running.key}"}
        async with httpx.AsyncClient(base_url=f"http://{self._running.http_address}", timeout=30, headers=headers) as http:
            while True:
                event_id = uuid.uuid4().hex
                event = {"eventId": event_id, "user": "users/b", "item": "items/i1", "eventType": "view"}
                try:
                    reply = await http.post("/v1/events:ingest", json={"events": [event]})
                    if reply.status_code == 200:
                        self.acknowledged.add(event_id)
                    self.statuses[reply.status_code] += 1
                    self.statuses[(await http.post("/v1/users/b:recommendItems", json={"maxResults": 3})).status_code] += 1
                except (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError) as error:
                    # A kept connection may be closed while the next request is on its way: no server can tell, and none has accepted it.
                    self.refused[type(error).__name__] += 1
                    return


def _bytes(message: object) -> bytes:
    return message.SerializeToString()  # type: ignore[attr-defined,no-any-return]  # every request is a message


async def _stored(data_dir: Path) -> Counter[str]:
    """Returns how often each event id stands in the table of the instance that runs."""
    instance = running_instance(data_dir)
    assert instance is not None
    connection = await asyncpg.connect(instance.parts.database_url)
    try:
        return Counter(row["event_id"] for row in await connection.fetch("SELECT event_id FROM events"))
    finally:
        await connection.close()


async def _fill(running: Running) -> None:
    """Gives the tenant a few items."""
    sent = [{"name": f"items/i{number}", "title": f"Barn number {number}"} for number in range(8)]
    async with httpx.AsyncClient(base_url=f"http://{running.http_address}", timeout=30) as http:
        reply = await http.post("/v1/items:batchUpsert", json={"items": sent}, headers={"authorization": f"Bearer {running.key}"})
    assert reply.status_code == 200, reply.text


async def test_stopped_under_load_killed_and_started_again(data_dir: Path) -> None:
    """SIGTERM under load fails no accepted request, ends the family with exit code 0, and keeps what was acknowledged; so does kill -9.

    The next start on the folder works at once, with the same key.
    """
    async with up(data_dir) as running:
        await _fill(running)
        callers = Callers(running)
        tasks = [asyncio.create_task(call()) for _ in range(4) for call in (callers.by_grpc, callers.by_http)]
        await _until(lambda: callers.codes[grpc.StatusCode.OK] > 100 and callers.statuses[200] > 100)
        assert await asyncio.to_thread(running.end, signal.SIGTERM) == 0
        await asyncio.wait_for(asyncio.gather(*tasks), 30)
    assert set(callers.codes) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}, callers.codes
    assert callers.codes[grpc.StatusCode.UNAVAILABLE] == 4
    assert set(callers.statuses) == {200}, callers.statuses
    assert sum(callers.refused.values()) == 4, callers.refused

    async with up(data_dir) as again:
        assert again.key == running.key
        assert callers.acknowledged <= (await _stored(data_dir)).keys()
        second = Callers(again)
        tasks = [asyncio.create_task(second.by_grpc()) for _ in range(4)]
        await _until(lambda: second.codes[grpc.StatusCode.OK] > 50)
        assert await asyncio.to_thread(again.end, signal.SIGKILL) == -signal.SIGKILL
        await asyncio.wait_for(asyncio.gather(*tasks), 30)

    async with up(data_dir):
        wanted = callers.acknowledged | second.acknowledged

        async def arrived() -> bool:
            return wanted <= (await _stored(data_dir)).keys()

        await eventually(arrived)
        assert {event_id for event_id, times in (await _stored(data_dir)).items() if times > 1} == set()


def _workers(folder: Path, parts: Parts) -> tuple[subprocess.Popen[str], str]:
    """Starts two workers on the session's parts, and returns the parent and where both serve HTTP."""
    addresses = {f"AISLE_{door}_ADDRESS": f"127.0.0.1:{free_port()}" for door in ("GRPC", "HTTP")}
    urls = {"AISLE_DATABASE_URL": parts.database_url, "AISLE_REDIS_URL": parts.redis_url, "AISLE_RUNTIME": "local"}
    process = subprocess.Popen(
        [sys.executable, "-m", "server", "serve", "--workers", "2"],
        cwd=folder,
        env=_environment(folder / "data", **addresses, **urls),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return process, addresses["AISLE_HTTP_ADDRESS"]


async def test_workers_share_a_port_and_end_with_their_parent(
    parts: Parts, database: Database, encoder: BuiltEncoder, tmp_path: Path
) -> None:
    """Two workers answer on one port, and end when their parent is killed."""
    process, address = _workers(tmp_path, parts)
    try:
        assert process.stdout is not None
        for _ in range(2):
            assert (await asyncio.to_thread(process.stdout.readline)).startswith("aisle ready ")
        workers = psutil.Process(process.pid).children()
        assert len(workers) == 2
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=30) as http:
            assert (await http.get("/healthz/ready")).status_code == 200
    finally:
        process.kill()
        process.communicate()
    _, alive = await asyncio.to_thread(psutil.wait_procs, workers, 30)
    assert alive == []


async def test_workers_that_start_end_on_a_signal(parts: Parts, database: Database, encoder: BuiltEncoder, tmp_path: Path) -> None:
    """SIGTERM to the parent of workers that do not serve yet ends all of them with exit code 0."""
    process, _ = _workers(tmp_path, parts)
    try:
        await _until(lambda: len(psutil.Process(process.pid).children()) == 2)
        workers = psutil.Process(process.pid).children()
        process.terminate()
        assert await asyncio.to_thread(process.wait, 60) == 0
        _, alive = await asyncio.to_thread(psutil.wait_procs, workers, 30)
        assert alive == []
    finally:
        process.kill()
        process.communicate()


async def _until(holds: Callable[[], bool]) -> None:
    async def held() -> bool:
        return holds()

    await eventually(held)
