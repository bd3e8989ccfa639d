"""`python -m loadtest.bench.rest`: the same RecommendItems by HTTP with JSON and by gRPC, with 1, 16 and 64 in flight.

Lists that are ranked anew, and lists from the cache, where the door's own share shows. Needs a running server on this machine, found by
AISLE_GRPC_ADDRESS and AISLE_HTTP_ADDRESS. Both doors are of one process; each measurement has a client process of its own, and they
alternate within each round. `cpu` is user and system time of the server's process tree an answer. Quote the ratios, not the rates.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import psutil
import uvloop
from google.protobuf import json_format
from grpc import aio
from rich.console import Console
from rich.table import Table

from aisle.v1 import recommendation_service_pb2
from loadtest.bench.measure import BenchError, listening_process, total_cpu_s

IN_FLIGHT = (1, 16, 64)
METHOD = "/aisle.v1.RecommendationService/RecommendItems"
_USERS = 1000
_REQUESTS = 2000
_KEPT = 16
_CASES = ("ranked", "kept")
_DOORS = ("gRPC", "REST")

Call = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Figures:
    """One measurement."""

    rps: float
    p50_ms: float
    cpu_us: float


def requests(case: str, salt: int) -> list[recommendation_service_pb2.RecommendItemsRequest]:
    """Returns requests. Lists of `ranked` are in contexts that nobody asked in before; those of `kept` are soon in the cache."""
    pages = [f"/rest/{salt + n}" for n in range(_REQUESTS)] if case == "ranked" else ["/rest"] * _KEPT
    return [
        recommendation_service_pb2.RecommendItemsRequest(
            user=f"users/couple-{n % _USERS:06d}", max_results=50, context=recommendation_service_pb2.Context(page=page)
        )
        for n, page in enumerate(pages)
    ]


def framed(request: recommendation_service_pb2.RecommendItemsRequest, key: str) -> bytes:
    """Returns the whole HTTP/1.1 request."""
    document = json_format.MessageToDict(request)
    body = json.dumps({name: value for name, value in document.items() if name != "user"}).encode()
    lines = [
        f"POST /v1/{request.user}:recommendItems HTTP/1.1",
        "host: bench",
        "content-type: application/json",
        f"content-length: {len(body)}",
    ]
    lines += [f"authorization: Bearer {key}"] if key else []
    return "\r\n".join([*lines, "", ""]).encode() + body


class _HttpConnection:
    """One connection that is kept. Reads what it must: status and length."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def call(self, request: bytes) -> None:
        """Sends a request and reads its reply whole.

        Raises:
            RuntimeError: It is not 200.
        """
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        body = await self._reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
        if not head.startswith(b"http/1.1 200"):
            raise RuntimeError(body[:300].decode())


async def _closed_loop(calls: list[Call], seconds: float) -> dict[str, Any]:
    """Keeps one call of each in flight for a while; returns how many were answered and how long each took."""
    took_ms: list[float] = []
    for call in calls:
        await call()  # the connections are open, and the server is warm
    started = time.perf_counter()
    until = started + seconds

    async def loop(call: Call) -> None:
        while (begun := time.perf_counter()) < until:
            await call()
            took_ms.append((time.perf_counter() - begun) * 1000)

    await asyncio.gather(*(loop(call) for call in calls))
    return {"count": len(took_ms), "wall_s": time.perf_counter() - started, "p50_ms": statistics.median(took_ms)}


async def _client(job: dict[str, Any]) -> dict[str, Any]:
    """Runs one measurement's client: `{"door", "case", "address", "key", "in_flight", "seconds", "salt"}`."""
    host, _, port = job["address"].rpartition(":")
    sent = requests(job["case"], job["salt"])
    if job["door"] == "REST":
        bodies = itertools.cycle([framed(request, job["key"]) for request in sent])
        opened = [_HttpConnection(*await asyncio.open_connection(host, int(port), limit=1 << 20)) for _ in range(job["in_flight"])]

        def call_of(connection: _HttpConnection) -> Call:
            return lambda: connection.call(next(bodies))

        return await _closed_loop([call_of(connection) for connection in opened], job["seconds"])
    messages = itertools.cycle([request.SerializeToString() for request in sent])
    metadata = (("authorization", f"Bearer {job['key']}"),) if job["key"] else ()
    async with aio.insecure_channel(job["address"]) as channel:
        method: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)

        async def call() -> None:
            await method(next(messages), metadata=metadata, timeout=30)

        return await _closed_loop([call] * job["in_flight"], job["seconds"])


def measure(process: psutil.Process, job: dict[str, Any]) -> Figures:
    """Measures one door.

    Raises:
        RuntimeError: The client failed.
    """
    before = total_cpu_s(process)
    command = [sys.executable, "-m", "loadtest.bench.rest", "--client"]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    found = json.loads(done.stdout)
    return Figures(found["count"] / found["wall_s"], found["p50_ms"], (total_cpu_s(process) - before) / found["count"] * 1e6)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--client", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    if options.client:
        print(json.dumps(uvloop.run(_client(json.load(sys.stdin)))))
        return
    addresses = {
        "gRPC": os.environ.get("AISLE_GRPC_ADDRESS", "127.0.0.1:50051"),
        "REST": os.environ.get("AISLE_HTTP_ADDRESS", "127.0.0.1:8080"),
    }
    try:
        process = listening_process(addresses["gRPC"])
    except BenchError as error:
        raise SystemExit(str(error)) from error
    found: dict[tuple[str, int, str], list[Figures]] = defaultdict(list)
    salt = time.time_ns() // 1_000_000
    for index, case, n, door in itertools.product(range(options.rounds), _CASES, IN_FLIGHT, _DOORS):
        job = {"door": door, "case": case, "address": addresses[door], "key": os.environ.get("AISLE_KEY", ""), "in_flight": n}
        turn = index * 10 + n * 100 + _DOORS.index(door)
        found[case, n, door].append(measure(process, {**job, "seconds": options.seconds, "salt": salt + turn * _REQUESTS}))
    Console(width=110).print(_table(found))


def _table(found: dict[tuple[str, int, str], list[Figures]]) -> Table:
    table = Table(title="RecommendItems, 50 results: REST over gRPC, medians of rounds")
    for column in ("list", "in flight", "gRPC rps", "REST rps", "rps ratio", "p50 ratio", "cpu ratio", "cpu ratio, min to max"):
        table.add_column(column, justify="right")
    for case, n in itertools.product(_CASES, IN_FLIGHT):
        grpc, rest = found[case, n, "gRPC"], found[case, n, "REST"]
        ratios = [
            [there / here for here, there in zip(_of(grpc, name), _of(rest, name), strict=True)] for name in ("rps", "p50_ms", "cpu_us")
        ]
        middle = [statistics.median(one) for one in ratios]
        rates = [f"{statistics.median(_of(one, 'rps')):,.0f}" for one in (grpc, rest)]
        table.add_row(case, str(n), *rates, *(f"{one:.2f}" for one in middle), f"{min(ratios[2]):.2f} to {max(ratios[2]):.2f}")
    return table


def _of(figures: list[Figures], name: str) -> list[float]:
    return [float(getattr(one, name)) for one in figures]


if __name__ == "__main__":
    main()
