"""An open-loop gRPC client in a process of its own: calls begin at random moments at a given rate, whether others were answered or not.

Reads a job from stdin: `{"address", "method", "metadata", "bodies" (base64, sent in turn), "rate", "seconds", "timeout_s"}`.
Prints `{"sent", "answered", "refused", "late", "other", "wall_s", "p50_ms", "p95_ms", "behind_ms"}`: times of answered calls, from when
each was due; `behind_ms` is how far the client itself was behind at worst.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import random
import sys
import time
from collections import Counter
from typing import Any

import grpc
import uvloop
from grpc import aio


async def run(job: dict[str, Any]) -> dict[str, Any]:
    """Returns the figures of one measurement."""
    bodies = itertools.cycle([base64.b64decode(body) for body in job["bodies"]])
    metadata = tuple((key, value) for key, value in job["metadata"])
    took_ms: list[float] = []
    outcomes: Counter[str] = Counter()
    async with aio.insecure_channel(job["address"]) as channel:
        method: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(job["method"])
        await method(next(bodies), metadata=metadata, timeout=30)  # opens the connection

        async def call(due: float) -> None:
            try:
                await method(next(bodies), metadata=metadata, timeout=job["timeout_s"])
            except aio.AioRpcError as error:
                outcomes[error.code().name] += 1
                return
            took_ms.append((time.perf_counter() - due) * 1000)

        calls: set[asyncio.Task[None]] = set()
        started = due = time.perf_counter()
        behind = 0.0
        while due < started + job["seconds"]:
            due += random.expovariate(job["rate"])
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            behind = max(behind, time.perf_counter() - due)
            task = asyncio.create_task(call(due))
            calls.add(task)
            task.add_done_callback(calls.discard)
        wall = time.perf_counter() - started
        await asyncio.gather(*calls)
    took_ms.sort()
    at = [took_ms[int(share * (len(took_ms) - 1))] if took_ms else 0.0 for share in (0.5, 0.95)]
    refused, late = (outcomes.pop(code.name, 0) for code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED))
    return {
        "sent": len(took_ms) + refused + late + sum(outcomes.values()),
        "answered": len(took_ms),
        "refused": refused,
        "late": late,
        "other": dict(outcomes),
        "wall_s": wall,
        "p50_ms": at[0],
        "p95_ms": at[1],
        "behind_ms": behind * 1000,
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(json.load(sys.stdin)))))
