"""A load client in a process of its own, by gRPC or by HTTP.

Reads a job from stdin: `{"address", "door", "method", "paths", "metadata", "bodies", "in_flight", "seconds", "rate",
"once"}`. The door is `grpc`, with a method, or `http`, with a path for each body. Bodies are base64 and sent in turn; with `once` the run
ends when each was sent.

Without a rate the loop is closed: N calls in flight, each replaced when answered. With one it is open: calls start at their time whatever
became of those before, at most `in_flight` at once; one that finds no room is late, and its time counts from when it should have begun.
Bodies are serialized before the clock starts and replies stay bytes, so the client's share is the channel alone.

Prints `{"count", "wall_s", "p50_ms", "p95_ms", "p99_ms", "refused", "errors"}`; `count` is answers, refused are calls by
RESOURCE_EXHAUSTED or 429.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import uvloop
from grpc import aio

_TIMEOUT_S = 30

Call = Callable[[int], Awaitable[str]]
"""Sends the n-th body; returns "" when it was answered, "refused", or what went wrong."""


@asynccontextmanager
async def _by_grpc(job: dict[str, Any], bodies: list[bytes]) -> AsyncIterator[Call]:
    metadata = tuple((key, value) for key, value in job["metadata"])
    async with aio.insecure_channel(job["address"]) as channel:
        method: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(job["method"])

        async def call(number: int) -> str:
            try:
                await method(bodies[number % len(bodies)], metadata=metadata, timeout=_TIMEOUT_S)
            except aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    return "refused"
                return f"{error.code().name}: {error.details()}"
            return ""

        yield call


@asynccontextmanager
async def _by_http(job: dict[str, Any], bodies: list[bytes]) -> AsyncIterator[Call]:
    host, _, port = job["address"].rpartition(":")
    headers = "".join(f"{key}: {value}\r\n" for key, value in job["metadata"])
    requests = [
        f"POST {path} HTTP/1.1\r\nhost: {job['address']}\r\ncontent-type: application/json\r\n{headers}"
        f"content-length: {len(body)}\r\n\r\n".encode()
        + body
        for path, body in zip(job["paths"], bodies, strict=True)
    ]
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def call(number: int) -> str:
        reader, writer = idle.pop() if idle else await asyncio.open_connection(host, int(port))
        writer.write(requests[number % len(requests)])
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        idle.append((reader, writer))
        status = head[9:12].decode()
        return "" if status == "200" else "refused" if status == "429" else f"HTTP {status}: {body[:200].decode(errors='replace')}"

    try:
        yield call
    finally:
        for _, writer in idle:
            writer.close()


async def run(job: dict[str, Any]) -> dict[str, Any]:
    """Returns the figures of one measurement."""
    bodies = [base64.b64decode(body) for body in job["bodies"]]
    numbers: Iterator[int] = itertools.count()
    took_ms: list[float] = []
    outcomes: Counter[str] = Counter()
    async with (_by_http if job.get("door") == "http" else _by_grpc)(job, bodies) as call:
        if failure := await call(next(numbers)):  # opens the connection
            return {"count": 0, "wall_s": 0.0, "p50_ms": 0, "p95_ms": 0, "p99_ms": 0, "refused": 0, "errors": {failure: 1}}
        in_flight = job["in_flight"]
        started = time.perf_counter()
        until = started + job["seconds"]

        async def one(begun: float) -> None:
            outcome = await call(next(numbers))
            outcomes[outcome] += 1
            if not outcome:
                took_ms.append((time.perf_counter() - begun) * 1000)

        async def closed() -> None:
            while (begun := time.perf_counter()) < until and (not job.get("once") or sum(outcomes.values()) + in_flight < len(bodies)):
                await one(begun)

        if rate := job.get("rate"):
            room = asyncio.Semaphore(in_flight)

            async def due(begun: float) -> None:
                async with room:
                    await one(begun)

            async with asyncio.TaskGroup() as group:
                for number in range(int(rate * job["seconds"])):
                    begun = started + number / rate
                    if (early := begun - time.perf_counter()) > 0:
                        await asyncio.sleep(early)
                    group.create_task(due(begun))
        else:
            await asyncio.gather(*(closed() for _ in range(in_flight)))
        wall = time.perf_counter() - started
    took_ms.sort()
    at = [took_ms[int(share * (len(took_ms) - 1))] if took_ms else 0.0 for share in (0.5, 0.95, 0.99)]
    refused = outcomes.pop("refused", 0)
    outcomes.pop("", None)
    figures = {"count": len(took_ms), "wall_s": wall, "p50_ms": at[0], "p95_ms": at[1], "p99_ms": at[2]}
    return {**figures, "refused": refused, "errors": dict(outcomes)}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(json.load(sys.stdin)))))
