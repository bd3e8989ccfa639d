"""`aisle serve --workers`: several processes on one port, and one that keeps them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import httpx
import psutil

from aisle.v1 import recommendation_service_pb2
from server.demo.generate import Demo
from server.embedded import Parts
from server.inference import BuiltEncoder
from server.store import Database
from tests.eventually import eventually
from tests.fixtures_server import SHOP
from tests.ports import free_port

_ROOT = Path(__file__).resolve().parents[3]


def _start(folder: Path, parts: Parts, http_address: str, **values: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "proto" / "gen")]),
        "AISLE_DATA_DIR": str(folder / "data"),
        "AISLE_DATABASE_URL": parts.database_url,
        "AISLE_REDIS_URL": parts.redis_url,
        "AISLE_RUNTIME": "local",
        "AISLE_GRPC_ADDRESS": f"127.0.0.1:{free_port()}",
        "AISLE_HTTP_ADDRESS": http_address,
        **values,
    }
    with (folder / "log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "server", "serve", "--workers", "2"],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )


@asynccontextmanager
async def _workers(folder: Path, parts: Parts, http_address: str, **values: str) -> AsyncIterator[subprocess.Popen[str]]:
    """Yields the parent of two workers. Its stdout is a pipe, its log `folder/log`."""
    process = _start(folder, parts, http_address, **values)
    try:
        yield process
    finally:
        process.kill()
        await asyncio.to_thread(process.communicate)


async def _answering(parent: subprocess.Popen[str], http_address: str) -> set[int]:
    """Returns the ids of the workers that answer twenty connections."""
    host, _, port = http_address.partition(":")
    streams = [await asyncio.open_connection(host, int(port)) for _ in range(20)]
    for reader, writer in streams:
        writer.write(b"GET /healthz/live HTTP/1.1\r\nhost: test\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    ours = {writer.get_extra_info("sockname")[1] for _, writer in streams}
    found = set()
    for worker in psutil.Process(parent.pid).children():
        if ours & {connection.raddr.port for connection in worker.net_connections("tcp") if connection.raddr}:
            found.add(worker.pid)
    for _, writer in streams:
        writer.close()
        await writer.wait_closed()
    return found


async def _ready(parent: subprocess.Popen[str]) -> None:
    """Waits until one more worker serves."""
    assert parent.stdout is not None
    assert (await asyncio.to_thread(parent.stdout.readline)).startswith("aisle ready")


async def test_two_workers_answer_on_one_port_and_a_killed_one_is_replaced(
    parts: Parts, database: Database, encoder: BuiltEncoder, tmp_path: Path
) -> None:
    """Both answer; after `kill -9` of one there are two again; SIGTERM drains both, and the parent ends with 0."""
    address = f"127.0.0.1:{free_port()}"
    async with _workers(tmp_path, parts, address) as parent:
        await _ready(parent)
        await _ready(parent)
        before = await _answering(parent, address)
        assert len(before) == 2
        victim, _ = psutil.Process(parent.pid).children()
        victim.kill()
        await _ready(parent)
        after = await _answering(parent, address)
        assert len(after) == 2
        assert len(before & after) == 1
        family = psutil.Process(parent.pid).children(recursive=True)
        parent.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(parent.wait, 60) == 0
        assert [one for one in family if one.is_running()] == []


async def test_workers_that_never_start_are_given_up(parts: Parts, database: Database, encoder: BuiltEncoder, tmp_path: Path) -> None:
    """With a setting that no worker can start with, the parent gives up after a few attempts with the workers' exit code."""
    async with _workers(tmp_path, parts, f"127.0.0.1:{free_port()}", AISLE_RUNTIME="triton") as parent:
        assert await asyncio.to_thread(parent.wait, 150) == 1
    log = (tmp_path / "log").read_text()
    assert "set AISLE_TRITON_URL" in log
    assert "workers do not start" in log


async def test_ctrl_c_drains_each_worker_once(parts: Parts, database: Database, encoder: BuiltEncoder, tmp_path: Path) -> None:
    """A terminal's SIGINT reaches the whole group; the workers still finish in order rather than being cut short by a second signal."""
    address = f"127.0.0.1:{free_port()}"
    async with _workers(tmp_path, parts, address) as parent:
        await _ready(parent)
        await _ready(parent)

        async def grouped_apart() -> bool:
            return {os.getpgid(one.pid) for one in psutil.Process(parent.pid).children()}.isdisjoint({os.getpgid(parent.pid)})

        await eventually(grouped_apart)
        parent.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(parent.wait, 60) == 0
    assert "stopped before all was done" not in (tmp_path / "log").read_text()


async def test_sighup_replaces_all_workers_and_no_call_fails(
    parts: Parts, database: Database, encoder: BuiltEncoder, shop: Demo, tmp_path: Path
) -> None:
    """Under steady load on kept and on new connections of both doors, SIGHUP leaves two other workers, and every call was answered."""
    address, grpc_address = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    settings = {"AISLE_GRPC_ADDRESS": grpc_address, "AISLE_CONNECTION_AGE_S": "4", "AISLE_LOCAL_TENANT": SHOP}
    user, body = f"users/{shop.users[0].user_id}", json.dumps({"maxResults": 3})
    request = recommendation_service_pb2.RecommendItemsRequest(user=user, max_results=3).SerializeToString()
    answered: Counter[str] = Counter()
    over = asyncio.Event()

    async def by_grpc(*, anew: bool) -> None:
        while not over.is_set():
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(grpc_address, options=options) as channel:
                call = channel.unary_unary("/aisle.v1.RecommendationService/RecommendItems")
                while not over.is_set():
                    await call(request, timeout=20)
                    answered[f"grpc, anew {anew}"] += 1
                    if anew:
                        break

    async def by_http(*, anew: bool) -> None:
        while not over.is_set():
            async with httpx.AsyncClient(base_url=f"http://{address}", timeout=20) as client:
                while not over.is_set():
                    reply = await client.post(f"/v1/{user}:recommendItems", content=body, headers={"content-type": "application/json"})
                    assert reply.status_code == 200, reply.text
                    answered[f"http, anew {anew}"] += 1
                    if anew:
                        break

    async with _workers(tmp_path, parts, address, **settings) as parent:
        await _ready(parent)
        await _ready(parent)
        before = {one.pid for one in psutil.Process(parent.pid).children()}
        callers = [asyncio.create_task(call(anew=anew)) for call in (by_grpc, by_http) for anew in (False, True) for _ in range(2)]
        parent.send_signal(signal.SIGHUP)
        try:
            async with asyncio.timeout(200):
                while "all workers replaced" not in (tmp_path / "log").read_text():
                    await asyncio.wait(callers, timeout=0.2)
                    assert not any(one.done() for one in callers)
        finally:
            over.set()
            await asyncio.gather(*callers)
        after = {one.pid for one in psutil.Process(parent.pid).children()}
        assert len(after) == 2
        assert not before & after
        assert len(answered) == 4
        parent.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(parent.wait, 60) == 0


async def test_a_replacement_that_does_not_start_leaves_the_old_workers_serving(
    parts: Parts, database: Database, encoder: BuiltEncoder, tmp_path: Path
) -> None:
    """With a setting in `.env` that no worker can start with, SIGHUP is answered by a line in the log, and the same two workers serve."""
    address = f"127.0.0.1:{free_port()}"
    async with _workers(tmp_path, parts, address) as parent:
        await _ready(parent)
        await _ready(parent)
        before = await _answering(parent, address)
        (tmp_path / ".env").write_text("AISLE_DIVERSITY=7\n")
        parent.send_signal(signal.SIGHUP)

        async def told() -> bool:
            return "a new worker does not serve" in (tmp_path / "log").read_text()

        await eventually(told)
        assert await _answering(parent, address) == before
        parent.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(parent.wait, 60) == 0
