"""The durable way in for events: appended to the tenant's Redis stream, acknowledged when Redis has them.

Promise: when `append` returns, the events are in the stream's append-only file (the embedded Redis fsyncs before it answers; a configured
one needs `appendfsync always` to promise the same). When it raises, they may or may not be: sending them again is right, because an event
counts once by its id.

A Redis that hangs is given a second. Then its writes fail, and new ones fail at once, until it answers a ping.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import redis.asyncio
from cachetools import TTLCache
from redis.exceptions import TimeoutError as RedisTimeoutError

from server.domain import Event, TenantId
from server.errors import UnavailableError
from server.stream.codec import decode_event, encode_event, pack, unpack
from server.stream.connection import LOST, stream_key
from server.stream.consumer import PAYLOAD
from server.telemetry import logger

EVENTS = "events"

_ENTRY_EVENTS = 100
_ENTRY_BYTES = 512 * 1024
_WINDOW_S = 0.002
_FLUSH_ENTRIES = 200
_PING_EVERY_S = 0.1
_RETRY_AFTER_S = 1.0
"""What callers are told to wait while Redis hangs."""
_RECENT_ENTRIES = 2048
_RECENT_S = 5.0
_log = logger(__name__)


@dataclass(slots=True)
class _Entry:
    """Events that will be one stream entry; `acknowledged` resolves to its id."""

    tenant_id: TenantId
    acknowledged: asyncio.Future[str]
    records: list[bytes] = field(default_factory=list)
    size_bytes: int = 0

    def has_room(self, size_bytes: int) -> bool:
        return len(self.records) < _ENTRY_EVENTS and self.size_bytes + size_bytes <= _ENTRY_BYTES


class EventLog:
    """Appends events with group commit, and reads back what a consistency token names.

    Appends that meet within 2 ms share entries and one pipelined write, so a durable write is paid once for all of them.
    """

    def __init__(self, client: redis.asyncio.Redis, *, patience_s: float = 1.0, answer_s: float = 1.0) -> None:
        """Stores the arguments.

        Args:
            client: May have a longer timeout than `answer_s`.
            patience_s: Seconds a write is tried again before it fails, enough for an embedded Redis to be restarted.
            answer_s: Seconds Redis gets to answer a write. Past it Redis counts as hung.
        """
        self._redis = client
        self._patience_s = patience_s
        self._answer_s = answer_s
        self._hung: asyncio.Task[None] | None = None
        """Waits until Redis answers again."""
        self._open: dict[TenantId, _Entry] = {}
        self._waiting: list[_Entry] = []
        self._wake = asyncio.Event()
        self._stopping = False
        # A token mostly comes back to the process that gave it, within moments: then its events are read without Redis.
        self._recent: TTLCache[tuple[TenantId, str], list[bytes]] = TTLCache(_RECENT_ENTRIES, _RECENT_S)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[EventLog]:
        """Writes while the context is open. Leaving it flushes what was accepted."""
        self._stopping = False
        writer = asyncio.create_task(self._write_forever(), name="event-log")
        try:
            yield self
        finally:
            self._stopping = True
            self._wake.set()
            await writer
            if self._hung is not None:
                self._hung.cancel()
                await asyncio.gather(self._hung, return_exceptions=True)

    async def append(self, tenant_id: TenantId, events: Sequence[Event]) -> list[str]:
        """Returns the ids of the stream entries that hold the events, in order, once Redis has them durably.

        Order is kept within a call. Entries may hold events of other calls of the same tenant too.

        Raises:
            InvalidFieldError: An event cannot be stored; nothing of the call is.
            UnavailableError: Redis did not take them in time, or hangs. Some may have been taken: send all again.
        """
        records = [encode_event(event) for event in events]
        if self._stopping:
            raise UnavailableError("redis", "this server is stopping and takes no more events; retry on another")
        if self._hung is not None:
            raise _hanging()
        entries = list({id(entry): entry for entry in (self._enqueue(tenant_id, record) for record in records)}.values())
        self._wake.set()
        # A caller that gives up must not take the entry from the callers that share it.
        return await asyncio.gather(*(asyncio.shield(entry.acknowledged) for entry in entries))

    async def read_entry(self, tenant_id: TenantId, entry_id: str) -> list[Event] | None:
        """Returns the events of an entry, or None when it is no longer in the stream.

        Entries that this process wrote in the last 5 s are known without asking Redis.

        Read-your-writes rests on one order of things: a worker commits events to the database *before* it removes their entry. So whoever
        gets None and *then* reads the profile finds them in it, and whoever gets events lays them over the profile (`overlay`), which is
        right whether or not they were committed meanwhile. Reading the profile first would lose what moves between the two reads. The
        one exception is an event that cannot be stored at all: it is in the dead-letter stream and in no profile.

        Raises:
            UnavailableError: Redis is down or hangs.
        """
        recent = self._recent.get((tenant_id, entry_id))
        if recent is not None:
            return [decode_event(orjson.loads(record)) for record in recent]
        if self._hung is not None:
            raise _hanging()
        key = stream_key(tenant_id, EVENTS)
        try:
            found = await self._redis.xrange(key, entry_id, entry_id)
        except LOST as error:
            raise UnavailableError("redis", "the event stream does not answer; retry") from error
        if not found:
            return None
        fields: Any = found[0][1]  # redis-py types the fields of every kind of client at once
        return [decode_event(record) for record in unpack(fields[PAYLOAD])]

    def _enqueue(self, tenant_id: TenantId, record: bytes) -> _Entry:
        entry = self._open.get(tenant_id)
        if entry is None or not entry.has_room(len(record)):
            entry = _Entry(tenant_id, asyncio.get_running_loop().create_future())
            entry.acknowledged.add_done_callback(_retrieve)
            self._open[tenant_id] = entry
            self._waiting.append(entry)
        entry.records.append(record)
        entry.size_bytes += len(record)
        return entry

    async def _write_forever(self) -> None:
        while True:
            await self._wake.wait()
            if not self._stopping:
                await asyncio.sleep(_WINDOW_S)
            self._wake.clear()
            while self._waiting:
                batch, self._waiting = self._waiting[:_FLUSH_ENTRIES], self._waiting[_FLUSH_ENTRIES:]
                for entry in batch:
                    if self._open.get(entry.tenant_id) is entry:
                        del self._open[entry.tenant_id]
                await self._write(batch)
            if self._stopping:
                return

    async def _write(self, batch: list[_Entry]) -> None:
        give_up = time.monotonic() + self._patience_s
        pause_s = 0.01
        while batch:
            try:
                async with asyncio.timeout(self._answer_s):
                    batch = await self._write_once(batch)
            except (TimeoutError, RedisTimeoutError) as error:
                # Not tried again: what was sent may be read and stored yet, and whoever waits should hear.
                self._hangs([*batch, *self._waiting], error)
                return
            except LOST as error:
                if time.monotonic() + pause_s > give_up:
                    _fail(batch, UnavailableError("redis", "did not acknowledge the events; send them again, they count once"), error)
                    return
            except Exception as error:  # noqa: BLE001  # a writer that dies would leave every later append waiting
                _fail(batch, UnavailableError("redis", f"did not take the events ({error}); send them again, they count once"), error)
                return
            if batch:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, 0.2)

    def _hangs(self, batch: list[_Entry], error: BaseException) -> None:
        """Fails all that wait, and appends from now on, until Redis answers."""
        _log.warning("redis hangs; events are refused until it answers", waited_s=self._answer_s, refused_entries=len(batch))
        self._waiting.clear()
        self._open.clear()
        _fail(batch, _hanging(), error)
        if self._hung is None:
            self._hung = asyncio.create_task(self._until_it_answers(), name="event-log-ping")

    async def _until_it_answers(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._answer_s):
                    await self._redis.ping()
                break
            except LOST:
                await asyncio.sleep(_PING_EVERY_S)
        self._hung = None
        _log.info("redis answers; events are taken again")

    async def _write_once(self, batch: list[_Entry]) -> list[_Entry]:
        """Writes all in one round trip; returns those to try again. The first refusal that waiting cannot mend is raised."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for entry in batch:
                pipeline.xadd(stream_key(entry.tenant_id, EVENTS), {PAYLOAD: pack(entry.records)})
            answers = await pipeline.execute(raise_on_error=False)
        again: list[_Entry] = []
        for entry, answer in zip(batch, answers, strict=True):
            if isinstance(answer, LOST):
                again.append(entry)
            elif isinstance(answer, Exception):
                _fail(
                    [entry], UnavailableError("redis", f"refused the events ({answer}); free memory or disk, then send them again"), answer
                )
            elif not entry.acknowledged.done():
                entry_id = answer.decode()
                self._recent[entry.tenant_id, entry_id] = entry.records
                entry.acknowledged.set_result(entry_id)
        if again and len(again) == len(batch):
            raise ConnectionError("Redis takes no writes")
        return again


def _hanging() -> UnavailableError:
    return UnavailableError("redis", "does not answer; send the events again in a moment, they count once", retry_after_s=_RETRY_AFTER_S)


def _fail(batch: list[_Entry], error: UnavailableError, cause: BaseException) -> None:
    error.__cause__ = cause
    for entry in batch:
        if not entry.acknowledged.done():
            entry.acknowledged.set_exception(error)


def _retrieve(future: asyncio.Future[str]) -> None:
    """Marks the exception as seen: every caller of an entry may have given up before it failed."""
    if not future.cancelled():
        future.exception()
