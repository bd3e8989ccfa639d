"""The loop that drains a stream: read, apply in one transaction, only then remove.

Whatever dies at whatever point, an entry is either still in its stream or its records are committed; both at once happens, so `apply` must
count a record once. An entry is buried only on proof that it cannot be applied: its bytes do not decode, or the database refuses one record
alone for what it holds. Everything else (database down, lock conflicts, a missing table) is tried again, and nothing new is read meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Generic, Protocol, TypeVar

import asyncpg
import orjson

from server.domain import TenantId
from server.errors import InvalidArgumentError
from server.stream.codec import unpack
from server.stream.consumer import Entry, StreamConsumer
from server.telemetry import EVENTS_DEAD, STREAM_LAG, logger

Tenants = Callable[[], Awaitable[Sequence[TenantId]]]
"""Lists the tenants whose streams are drained. Called about once a second."""

REFUSED = (ValueError, TypeError, asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)
"""What says that records themselves cannot be stored; trying again changes nothing."""

_TENANTS_S = 1.0
_IN_FLIGHT = 2
"""Batches under way when the next is read: one is decoded while the database works on another."""
_LONGEST_PAUSE_S = 2.0
_log = logger(__name__)
_Record = TypeVar("_Record")


class Handler(Protocol[_Record]):
    """What a stream's records are and where they go."""

    def decode(self, value: Any) -> _Record:
        """Returns the record of a JSON value, or raises ValueError."""

    async def apply(self, tenant_id: TenantId, records: Sequence[_Record]) -> None:
        """Commits the records, counting each once however often it comes."""


class StreamWorker(Generic[_Record]):
    """Drains one stream of all tenants until it is stopped. Several may run, in one process or many, under different names."""

    def __init__(self, consumer: StreamConsumer, handler: Handler[_Record], tenants: Tenants) -> None:
        self._consumer = consumer
        self._handler = handler
        self._tenants = tenants
        self._known: Sequence[TenantId] = ()
        self._stopping = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Works while the context is open. Leaving it finishes the batch at hand, or leaves it to a successor if the database is down."""
        self._stopping.clear()
        tasks = [asyncio.create_task(self._drain_forever(), name="drain"), asyncio.create_task(self._watch_forever(), name="drain-watch")]
        try:
            yield
        finally:
            # Asked rather than cancelled: a command cut short would cost its connection, or the batch its last step.
            self._stopping.set()
            await asyncio.gather(*tasks)

    async def _drain_forever(self) -> None:
        pause_s = 0.05
        flights: set[asyncio.Task[None]] = set()
        while not self._stopping.is_set():
            try:
                flights = await self._land(flights, leave=0 if self._consumer.recovering else _IN_FLIGHT - 1)
                if self._known:
                    batches = await self._consumer.read(self._known)
                    flights |= {asyncio.create_task(self._handle(tenant_id, entries)) for tenant_id, entries in batches.items()}
                else:
                    await self._sleep(0.1)
                pause_s = 0.05
            except Exception as error:  # noqa: BLE001  # the loop must outlive whatever one round meets; the entries are still there
                self._consumer.recover()
                flights = {flight for flight in flights if not flight.done()}
                _log.warning("drain_failed", stream=self._consumer.stream, error=repr(error), retry_s=pause_s)
                await self._sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        await asyncio.gather(*flights, return_exceptions=True)

    async def _land(self, flights: set[asyncio.Task[None]], *, leave: int) -> set[asyncio.Task[None]]:
        """Waits until at most `leave` batches are under way and returns those; raises what one that ended has raised."""
        while len(flights) > leave:
            done, flights = await asyncio.wait(flights, return_when=asyncio.FIRST_COMPLETED)
            errors = [error for flight in done if (error := flight.exception()) is not None]
            if errors:
                raise errors[0]
        return flights

    async def _watch_forever(self) -> None:
        """Keeps the list of tenants and the lag figure fresh, also while a batch waits for the database."""
        while not self._stopping.is_set():
            try:
                self._known = await self._tenants()
                for tenant_id, entries in (await self._consumer.lag(self._known)).items():
                    STREAM_LAG.labels(tenant_id, self._consumer.stream).set(entries)
            except Exception as error:  # noqa: BLE001  # the last list serves until the next one can be had
                _log.warning("tenants_unknown", stream=self._consumer.stream, error=repr(error))
            await self._sleep(_TENANTS_S if self._known else 0.1)

    async def _handle(self, tenant_id: TenantId, entries: Sequence[Entry]) -> None:
        records: list[tuple[Any, _Record]] = []
        for entry in entries:
            try:
                values = unpack(entry.payload) if entry.payload else []
            except ValueError as error:
                await self._bury(tenant_id, entry.payload, error)
                continue
            for value in values:
                try:
                    records.append((value, self._handler.decode(value)))
                except ValueError as error:
                    await self._bury(tenant_id, orjson.dumps([value]), error)
        if await self._apply(tenant_id, records):
            await self._consumer.remove(tenant_id, [entry.entry_id for entry in entries])

    async def _apply(self, tenant_id: TenantId, records: Sequence[tuple[Any, _Record]]) -> bool:
        """Applies all records, burying those that are refused; false if stopped before that was done."""
        pause_s = 0.05
        while records:
            try:
                await self._handler.apply(tenant_id, [record for _, record in records])
            except (InvalidArgumentError, *REFUSED) as error:
                return await self._isolate(tenant_id, records, error)
            except Exception as error:  # noqa: BLE001  # whatever is not the records' fault passes, and losing them would be worse
                _log.warning("apply_failed", stream=self._consumer.stream, tenant=tenant_id, error=repr(error), retry_s=pause_s)
                if self._stopping.is_set():
                    return False
                await self._sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                return True
        return True

    async def _isolate(self, tenant_id: TenantId, records: Sequence[tuple[Any, _Record]], error: Exception) -> bool:
        """Halves a refused batch until the bad records stand alone: 2 log2(n) transactions for one bad among n."""
        if len(records) == 1:
            await self._bury(tenant_id, orjson.dumps([records[0][0]]), error)
            return True
        middle = len(records) // 2
        return await self._apply(tenant_id, records[:middle]) and await self._apply(tenant_id, records[middle:])

    async def _bury(self, tenant_id: TenantId, payload: bytes, error: Exception) -> None:
        await self._consumer.bury(tenant_id, payload, f"{type(error).__name__}: {error}")
        EVENTS_DEAD.labels(tenant_id).inc()
        _log.warning("entry_buried", stream=self._consumer.stream, tenant=tenant_id, error=str(error))

    async def _sleep(self, seconds: float) -> None:
        """Waits, unless the worker is stopped first."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
