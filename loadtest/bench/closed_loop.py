"""A closed-loop gRPC client in a process of its own: N calls in flight, each replaced when answered.

Reads a job from stdin: `{"address", "method", "metadata", "bodies" (base64, sent in turn), "in_flight", "seconds"}`. Bodies are serialized
before the clock starts and replies stay bytes, so the client's share is the channel alone.
Prints `{"count", "wall_s", "p50_ms", "p95_ms", "errors"}`.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import sys
import time
from collections import Counter
from typing import Any

import uvloop
from grpc import aio


async def run(job: dict[str, Any]) -> dict[str, Any]:
    """Returns the figures of one measurement."""
    bodies = itertools.cycle([base64.b64decode(body) for body in job["bodies"]])
    metadata = tuple((key, value) for key, value in job["metadata"])
    took_ms: list[float] = []
    errors: Counter[str] = Counter()
    async with aio.insecure_channel(job["address"]) as channel:
        method: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(job["method"])
        await method(next(bodies), metadata=metadata, timeout=30)  # opens the connection
        started = time.perf_counter()
        until = started + job["seconds"]

        async def loop() -> None:
            while (begun := time.perf_counter()) < until:
                try:
                    await method(next(bodies), metadata=metadata, timeout=30)
                except aio.AioRpcError as error:
                    errors[f"{error.code().name}: {error.details()}"] += 1
                    continue
                took_ms.append((time.perf_counter() - begun) * 1000)

        await asyncio.gather(*(loop() for _ in range(job["in_flight"])))
        wall = time.perf_counter() - started
    took_ms.sort()
    at = [took_ms[int(share * (len(took_ms) - 1))] if took_ms else 0.0 for share in (0.5, 0.95)]
    return {"count": len(took_ms), "wall_s": wall, "p50_ms": at[0], "p95_ms": at[1], "errors": dict(errors)}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(json.load(sys.stdin)))))
