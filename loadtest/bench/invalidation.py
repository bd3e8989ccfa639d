"""`python -m loadtest.bench.invalidation`: how long it takes until every replica forgot a key that one of them invalidated.

Needs the Redis of a running server on this machine: `--redis`, or the embedded one of `AISLE_DATA_DIR`. Each replica is a process with the
server's own caches; the clock is the machine's, which all of them share. Time runs from before `invalidate` until the last of the others
has dropped the key.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop

from server.cache import Cache, MemoryCache
from server.cache.shared import SharedCache
from server.domain import TenantId
from server.stream import Invalidations, connect

_TENANT = TenantId("bench-invalidation")
_KIND = "profile"


@asynccontextmanager
async def _cache(url: str, heard_keys: asyncio.Queue[tuple[str, float]] | None) -> AsyncIterator[Cache]:
    async with connect(url, timeout_s=1.0) as client, connect(url, timeout_s=5.0) as bus_client:
        bus = Invalidations(bus_client)
        cache = Cache(MemoryCache(1 << 20), SharedCache(client), bus.publish)
        listening = asyncio.Event()

        def heard(tenant_id: TenantId, kind: str, keys: Sequence[str]) -> None:
            cache.forget(tenant_id, kind, keys)
            listening.set()
            if heard_keys is not None and tenant_id == _TENANT:
                for key in keys:
                    heard_keys.put_nowait((key, time.monotonic()))

        async with bus.listen(heard):
            await asyncio.wait_for(listening.wait(), 30)
            yield cache


async def _replica(url: str) -> None:
    """Prints the moment at which each key was forgotten."""
    heard: asyncio.Queue[tuple[str, float]] = asyncio.Queue()
    async with _cache(url, heard):
        print("ready", flush=True)
        while True:
            print(json.dumps(await heard.get()), flush=True)


async def _measure(url: str, replicas: int, count: int) -> list[float]:
    """Returns the times in ms, rising."""
    command = [sys.executable, "-m", "loadtest.bench.invalidation", "--redis", url, "--replica"]
    others = [await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE) for _ in range(replicas - 1)]
    took_ms: list[float] = []

    async def line(process: asyncio.subprocess.Process) -> bytes:
        assert process.stdout is not None
        return await asyncio.wait_for(process.stdout.readline(), 60)

    try:
        for process in others:
            assert await line(process) == b"ready\n"
        async with _cache(url, None) as cache:
            for number in range(count):
                key = f"{os.getpid()}-{number}"
                started = time.monotonic()
                await cache.invalidate(_TENANT, _KIND, [key])
                heard = [json.loads(await line(process)) for process in others]
                assert all(one[0] == key for one in heard)
                took_ms.append((max(moment for _, moment in heard) - started) * 1000)
                await asyncio.sleep(0.005)
    finally:
        for process in others:
            process.terminate()
            await process.wait()
    return sorted(took_ms)


def _embedded_redis() -> str:
    folder = Path(os.environ.get("AISLE_DATA_DIR", "~/.local/share/aisle")).expanduser()
    try:
        url: str = json.loads((folder / "run" / "parts.json").read_text())["parts"]["redis_url"]
    except (OSError, KeyError, ValueError):
        sys.exit(f"bench: no server runs on {folder}; start one with `make up`, or name a Redis with --redis")
    return url


def main() -> None:
    """Measures and prints the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.invalidation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--redis", default="", help="URL of the Redis")
    parser.add_argument("--replicas", type=int, default=3, help="processes, the one that invalidates included (default: %(default)s)")
    parser.add_argument("--count", type=int, default=500, help="invalidations (default: %(default)s)")
    parser.add_argument("--replica", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    url = arguments.redis or _embedded_redis()
    if arguments.replica:
        uvloop.run(_replica(url))
        return
    took_ms = uvloop.run(_measure(url, arguments.replicas, arguments.count))
    at = {name: took_ms[int(share * (len(took_ms) - 1))] for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))}
    print(
        f"{arguments.replicas} replicas, {len(took_ms)} invalidations, ms: "
        + ", ".join(f"{name} {value:.2f}" for name, value in at.items())
    )


if __name__ == "__main__":
    main()
