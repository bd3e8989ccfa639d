"""`python -m loadtest.bench.realtime`: events in at a steady rate, a burst, and the way from an event to a pushed page.

Needs a running server on this machine, found as by `python -m loadtest`, with the demo tenant. It writes events of users of its own.

- steady: batches of 100 events are sent at `--rate` for `--seconds`, each acknowledged after the durable write. Lag is read from `/metrics`
  twice a second: entries appended and not applied yet, over the rate.
- burst: the same at `--burst` for ten seconds, then until all is applied. Nothing may be lost: the database's count must be what was sent.
- push: `--watched` users are watched; events come at `--push-rate` over 10,000 users, `--changes` a second of them for the watched ones.
  Time runs from before an event is sent to the arrival of a page that shows the event's item no more.

The client shares the machine with the server, so times include its own waiting for a core.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import sys
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import psutil
import uvloop
from rich.console import Console
from rich.table import Table

from aisle.v1 import event_service_pb2 as events
from aisle.v1 import personalization_service_pb2 as personalization
from loadtest.bench.measure import BenchError, listening_process, total_cpu_s

_INGEST = "/aisle.v1.EventService/IngestEvents"
_WATCH = "/aisle.v1.PersonalizationService/WatchPersonalization"
_BATCH = 100
_IN_FLIGHT = 64
_BURST_S = 10.0
_DRAIN_S = 300.0
_USERS = 10_000


@dataclass(frozen=True, slots=True)
class Ingested:
    """What became of events sent at a rate."""

    asked_rate: float
    acknowledged_rate: float
    """A second, over the time of sending."""
    acknowledged: int
    lost: int
    """Acknowledged and not applied once the stream is empty."""
    acknowledge_p50_ms: float
    acknowledge_p95_ms: float
    lag_s: float
    """Largest seen while sending: events waiting, over the rate."""
    drain_s: float
    """From the last acknowledgement to the last event applied."""
    server_mb_before: int
    server_mb_most: int
    cpu_us: float
    """User and system time of the server's whole process tree for each event."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """How long pages took to follow events."""

    events_rate: float
    """Acknowledged a second, background and watched users together."""
    changes: int
    pushed: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    acknowledge_p50_ms: float
    """Of the background's events: what one durable write and one call cost at the same moment."""
    p50_of_acknowledge: float
    """The first over the second: what a busy machine does to both cancels out."""


@dataclass(frozen=True, slots=True)
class _Server:
    channel: grpc.aio.Channel
    metadata: tuple[tuple[str, str], ...]
    metrics_url: str
    process: psutil.Process

    async def ingest(self, body: bytes) -> int:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(_INGEST)
        reply = events.IngestEventsResponse.FromString(await method(body, metadata=self.metadata, timeout=60))
        if reply.rejected:
            raise BenchError(f"an event was rejected: {reply.rejected[0].message}")
        return reply.accepted_count

    async def figures(self) -> dict[str, float]:
        """Returns sums over tenants of the event metrics."""
        content = await asyncio.to_thread(lambda: urllib.request.urlopen(self.metrics_url, timeout=30).read().decode())  # noqa: S310  # our own
        found = {"applied": 0.0, "lag": 0.0}
        for line in content.splitlines():
            if line.startswith("aisle_events_applied_total"):
                found["applied"] += float(line.rpartition(" ")[2])
            elif line.startswith("aisle_stream_lag_entries") and 'stream="events"' in line:
                found["lag"] += float(line.rpartition(" ")[2])
        return found

    def memory_mb(self) -> int:
        return int(self.process.memory_info().rss) >> 20


def _batches(items: list[str], run: str, size: int) -> Iterator[bytes]:
    """Yields requests for ever, of events that nobody sent before."""
    for number in itertools.count():
        made = [
            events.Event(
                event_id=f"{run}-{number}-{place}",
                user=f"users/bench-{random.randrange(_USERS):05d}",  # noqa: S311  # no secret
                item=random.choice(items),  # noqa: S311  # no secret
                event_type="view",
                session_id="bench",
            )
            for place in range(size)
        ]
        yield events.IngestEventsRequest(events=made).SerializeToString()


async def _send(server: _Server, bodies: Iterator[bytes], *, rate: float, size: int, seconds: float) -> tuple[list[float], int, float]:
    """Sends at a rate, whether answers come or not, up to a bound in flight; returns times in ms, events acknowledged, and seconds."""
    took_ms: list[float] = []
    acknowledged = 0
    free = asyncio.Semaphore(_IN_FLIGHT)
    tasks: set[asyncio.Task[None]] = set()
    failed: list[BaseException] = []

    async def one(body: bytes) -> None:
        nonlocal acknowledged
        begun = time.perf_counter()
        try:
            count = await server.ingest(body)
            acknowledged += count
        except (grpc.aio.AioRpcError, BenchError) as error:
            failed.append(error)
        finally:
            free.release()
        took_ms.append((time.perf_counter() - begun) * 1000)

    started = time.perf_counter()
    for number in range(int(seconds * rate / size)):
        await free.acquire()
        late = time.perf_counter() - started - number * size / rate
        if late < 0:
            await asyncio.sleep(-late)
        task = asyncio.create_task(one(next(bodies)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    if failed:
        raise BenchError(f"{len(failed)} calls failed: {failed[0]}")
    return sorted(took_ms), acknowledged, time.perf_counter() - started


def _at(ordered: list[float], share: float) -> float:
    return ordered[int(share * (len(ordered) - 1))] if ordered else float("nan")


async def ingested(server: _Server, items: list[str], *, rate: float, seconds: float) -> Ingested:
    """Sends events at a rate and waits until they are applied."""
    before = (await server.figures())["applied"]
    memory_mb = most_mb = server.memory_mb()
    cpu_before, lag_events, sending = total_cpu_s(server.process), 0.0, True

    async def watch() -> None:
        nonlocal lag_events, most_mb
        while sending:
            # An entry holds at most 100 events, and here each call fills one.
            lag_events = max(lag_events, (await server.figures())["lag"] * _BATCH)
            most_mb = max(most_mb, server.memory_mb())
            await asyncio.sleep(0.5)

    watching = asyncio.create_task(watch())
    took_ms, acknowledged, wall_s = await _send(
        server, _batches(items, uuid.uuid4().hex[:12], _BATCH), rate=rate, size=_BATCH, seconds=seconds
    )
    sending = False
    await watching
    ended = time.perf_counter()
    while (applied := (await server.figures())["applied"] - before) < acknowledged and time.perf_counter() - ended < _DRAIN_S:  # noqa: ASYNC110  # another process
        await asyncio.sleep(0.1)
    drain_s = time.perf_counter() - ended
    return Ingested(
        asked_rate=rate,
        acknowledged_rate=acknowledged / wall_s,
        acknowledged=acknowledged,
        lost=acknowledged - int(applied),
        acknowledge_p50_ms=_at(took_ms, 0.5),
        acknowledge_p95_ms=_at(took_ms, 0.95),
        lag_s=lag_events / rate,
        drain_s=drain_s,
        server_mb_before=memory_mb,
        server_mb_most=max(most_mb, server.memory_mb()),
        cpu_us=(total_cpu_s(server.process) - cpu_before) / max(1, acknowledged) * 1e6,
    )


async def pushed(server: _Server, items: list[str], *, rate: float, changes: float, watched: int, seconds: float) -> Pushed:
    """Measures from events to pages, while other events come at a rate."""
    method = server.channel.unary_stream(_WATCH, response_deserializer=personalization.WatchPersonalizationResponse.FromString)
    shown: dict[str, list[str]] = {}
    waiting: dict[str, tuple[str, float]] = {}
    took_ms: list[float] = []
    opened = asyncio.Semaphore(0)

    async def follow(user: str) -> None:
        asked = personalization.WatchPersonalizationRequest(user=user, content_types=["recommendations"], current_page="/bench")
        first = True
        async for state in method(asked.SerializeToString(), metadata=server.metadata, timeout=seconds + 120):
            now = time.perf_counter()
            shown[user] = [one.item for one in state.page.personalized_content.recommendations]
            item, sent = waiting.get(user, ("", 0.0))
            if item and item not in shown[user]:
                took_ms.append((now - sent) * 1000)
                del waiting[user]
            if first:
                opened.release()
                first = False

    run = uuid.uuid4().hex[:12]
    users = [f"users/watched-{run}-{number}" for number in range(watched)]
    followers = [asyncio.create_task(follow(user)) for user in users]
    for _ in users:
        await asyncio.wait_for(opened.acquire(), 60)
    sent = 0

    async def change() -> None:
        nonlocal sent
        started = time.perf_counter()
        for number in range(int(changes * seconds)):
            await asyncio.sleep(max(0.0, started + number / changes - time.perf_counter()))
            user = users[number % watched]
            if user in waiting or not shown[user]:
                continue
            event = events.Event(event_id=uuid.uuid4().hex, user=user, item=shown[user][0], event_type="click", session_id="bench")
            waiting[user] = (event.item, time.perf_counter())
            sent += 1
            await server.ingest(events.IngestEventsRequest(events=[event]).SerializeToString())

    background = _send(server, _batches(items, run, 10), rate=rate - changes, size=10, seconds=seconds)
    (acknowledge_ms, acknowledged, wall_s), _ = await asyncio.gather(background, change())
    await asyncio.sleep(2)
    for follower in followers:
        follower.cancel()
    await asyncio.gather(*followers, return_exceptions=True)
    took_ms.sort()
    p50_ms, acknowledge_p50_ms = _at(took_ms, 0.5), _at(acknowledge_ms, 0.5)
    return Pushed(
        events_rate=(acknowledged + sent) / wall_s,
        changes=sent,
        pushed=len(took_ms),
        p50_ms=p50_ms,
        p95_ms=_at(took_ms, 0.95),
        p99_ms=_at(took_ms, 0.99),
        acknowledge_p50_ms=acknowledge_p50_ms,
        p50_of_acknowledge=p50_ms / acknowledge_p50_ms,
    )


@asynccontextmanager
async def _server() -> AsyncIterator[_Server]:
    address = os.environ.get("AISLE_GRPC_ADDRESS", "127.0.0.1:50051")
    http = os.environ.get("AISLE_HTTP_ADDRESS", "127.0.0.1:8080")
    key = os.environ.get("AISLE_KEY", "")
    metadata = (("authorization", f"Bearer {key}"),) if key else ()
    process = listening_process(address)
    async with grpc.aio.insecure_channel(address) as channel:
        yield _Server(channel, metadata, f"http://{http}/metrics", process)


async def _run(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    async with _server() as server:
        method = server.channel.unary_stream(_WATCH, response_deserializer=personalization.WatchPersonalizationResponse.FromString)
        asked = personalization.WatchPersonalizationRequest(user="users/bench", content_types=["recommendations"], max_results=100)
        call = method(asked.SerializeToString(), metadata=server.metadata, timeout=60)
        items = [one.item for one in (await call.read()).page.personalized_content.recommendations]
        call.cancel()
        if not items:
            raise BenchError("the tenant has no items; start the server with `make up`, which loads the demo tenant")
        if "push" in arguments.only:
            figures = await pushed(
                server, items, rate=arguments.push_rate, changes=arguments.changes, watched=arguments.watched, seconds=arguments.seconds
            )
            found["push"] = asdict(figures)
        if "steady" in arguments.only:
            found["steady"] = asdict(await ingested(server, items, rate=arguments.rate, seconds=arguments.seconds))
        if "burst" in arguments.only:
            found["burst"] = asdict(await ingested(server, items, rate=arguments.burst, seconds=_BURST_S))
    return found


def main() -> None:
    """Measures and prints the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.realtime", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=["push", "steady", "burst"], default=["push", "steady", "burst"])
    parser.add_argument("--rate", type=float, default=5000, help="events a second of `steady` (default: %(default)s)")
    parser.add_argument("--burst", type=float, default=20_000, help="events a second of `burst` (default: %(default)s)")
    parser.add_argument("--push-rate", type=float, default=1000, help="events a second of `push` (default: %(default)s)")
    parser.add_argument("--changes", type=float, default=10, help="of these, for watched users (default: %(default)s)")
    parser.add_argument("--watched", type=int, default=50, help="users watched (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=20, help="length of `push` and `steady` (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for all figures")
    found = uvloop.run(_run(arguments := parser.parse_args()))
    for name, figures in found.items():
        table = Table(name, "")
        for figure, value in figures.items():
            table.add_row(figure, f"{value:,.1f}" if isinstance(value, float) else f"{value:,}")
        Console(width=80).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except (BenchError, grpc.aio.AioRpcError) as error:
        sys.exit(f"bench: {error}")
