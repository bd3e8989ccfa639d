"""The processes that `test_durability.py` kills. Each says so on its pipe when it is at work."""

from __future__ import annotations

import asyncio
import os
import random
import uuid
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from typing import Any

from server.domain import Event, EventId, ItemId, TenantId, UserId
from server.errors import UnavailableError
from server.store import open_database
from server.stream import EventLog, connect
from server.worker import event_worker

Program = Callable[..., Coroutine[Any, Any, None]]


def _events(count: int) -> list[Event]:
    return [
        Event(
            event_id=EventId(uuid.uuid4().hex),
            user_id=UserId(f"u{random.randrange(12)}"),
            item_id=ItemId(f"i{random.randrange(100)}"),
            event_type=random.choice(("view", "save")),
            occur_time=datetime.now(UTC),
        )
        for _ in range(count)
    ]


async def _sender(log: EventLog, tenant_id: TenantId, acknowledged: int) -> None:
    """Sends batches, each until it is acknowledged, some once more, and notes the ids only then."""
    while True:
        events = _events(random.randint(1, 30))
        for _ in range(random.choice((1, 1, 1, 2))):
            while True:
                try:
                    await log.append(tenant_id, events)
                    break
                except UnavailableError:
                    await asyncio.sleep(0.01)
        # One write call: this process may die at any point, the kernel keeps what was written.
        os.write(acknowledged, "".join(f"{event.event_id}\n" for event in events).encode())
        await asyncio.sleep(random.random() * 0.02)


async def ingest(report: Connection, redis_url: str, tenant: str, folder: str) -> None:
    """Sends from four tasks at once; the acknowledged ids go to a file of this process in `folder`."""
    acknowledged = os.open(f"{folder}/{os.getpid()}-{uuid.uuid4().hex}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    async with connect(redis_url, timeout_s=2.0) as client, EventLog(client).running() as log:
        senders = [asyncio.create_task(_sender(log, TenantId(tenant), acknowledged)) for _ in range(4)]
        report.send(True)  # noqa: FBT003  # the only word there is
        await asyncio.gather(*senders)


async def work(report: Connection, redis_url: str, database_url: str, tenant: str, name: str) -> None:
    """Applies the tenant's events."""

    async def tenants() -> Sequence[TenantId]:
        return [TenantId(tenant)]

    async with (
        connect(redis_url, timeout_s=2.0) as client,
        open_database(database_url, max_connections=3) as database,
        event_worker(client, database, tenants, name=name, reclaim_idle_s=1.0).running(),
    ):
        report.send(True)  # noqa: FBT003  # the only word there is
        await asyncio.Event().wait()


def run(program: Program, report: Connection, arguments: Sequence[str]) -> None:
    """Runs a program in a process of its own, silently."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    random.seed()
    asyncio.run(program(report, *arguments))
