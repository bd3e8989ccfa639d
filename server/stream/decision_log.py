"""Decision records on their way to the stream, off the path of the reply they describe."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis.asyncio
from redis.exceptions import RedisError

from server.domain import Decision, TenantId
from server.errors import InvalidFieldError
from server.stream.codec import encode_decision, pack
from server.stream.connection import stream_key
from server.stream.consumer import PAYLOAD
from server.telemetry import DECISIONS_DROPPED, logger

DECISIONS = "decisions"
_ENTRY_DECISIONS = 50
_INTERVAL_S = 0.2
"""Seconds that records are gathered for: few entries and few transactions, at the price of reading a decision that much later."""
_FLUSH_S = 2.0
_log = logger(__name__)


class DecisionLog:
    """Takes decision records without ever blocking or failing, and appends them to the tenant's stream.

    A record is not an event: it is kept in memory until Redis takes it, and the oldest ones are dropped when Redis is away for long.
    """

    def __init__(self, client: redis.asyncio.Redis, *, capacity: int = 10_000) -> None:
        """`capacity`: Records kept while Redis is away."""
        self._redis = client
        self._records: deque[tuple[TenantId, Decision]] = deque(maxlen=capacity)
        self._wake = asyncio.Event()
        self._stopping = False
        self.dropped = 0
        """Records lost to a full buffer, to a stop while Redis was away, or because they are no JSON."""

    def record(self, tenant_id: TenantId, decision: Decision) -> None:
        """Keeps the record for writing. Never blocks, never raises."""
        if len(self._records) == self._records.maxlen:
            self._drop(1)
            if self.dropped % 1000 == 1:
                _log.warning("decisions_dropped", total=self.dropped)
        self._records.append((tenant_id, decision))
        self._wake.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[DecisionLog]:
        """Writes while the context is open. Leaving it gives what is left 2 s to be written."""
        self._stopping = False
        writer = asyncio.create_task(self._write_forever(), name="decision-log")
        try:
            yield self
        finally:
            self._stopping = True
            self._wake.set()
            await writer

    async def _write_forever(self) -> None:
        give_up = float("inf")
        pause_s = _INTERVAL_S
        while self._records or not self._stopping:
            await self._wake.wait()
            if self._stopping:
                give_up = min(give_up, time.monotonic() + _FLUSH_S)
            else:
                await asyncio.sleep(pause_s)
            taken = [self._records.popleft() for _ in range(min(len(self._records), 1000))]
            if not self._records and not self._stopping:
                self._wake.clear()
            try:
                await self._write(taken)
                pause_s = _INTERVAL_S
            except (RedisError, OSError) as error:
                self._put_back(taken)
                if time.monotonic() > give_up:
                    self._drop(len(self._records))
                    _log.warning("decisions_lost", records=len(self._records), error=str(error))
                    return
                pause_s = min(2 * pause_s, 2.0)
                await asyncio.sleep(_INTERVAL_S)

    async def _write(self, taken: list[tuple[TenantId, Decision]]) -> None:
        encoded: dict[TenantId, list[bytes]] = {}
        for tenant_id, decision in taken:
            try:
                encoded.setdefault(tenant_id, []).append(encode_decision(decision))
            except InvalidFieldError as error:
                self._drop(1)
                _log.warning("decision_dropped", decision_id=decision.decision_id, error=error.message)
        if not encoded:
            return
        async with self._redis.pipeline(transaction=False) as pipeline:
            for tenant_id, records in encoded.items():
                for start in range(0, len(records), _ENTRY_DECISIONS):
                    fields = {PAYLOAD: pack(records[start : start + _ENTRY_DECISIONS])}
                    pipeline.xadd(stream_key(tenant_id, DECISIONS), fields)  # type: ignore[arg-type]  # redis-py's mapping is invariant
            await pipeline.execute()

    def _put_back(self, taken: list[tuple[TenantId, Decision]]) -> None:
        room = (self._records.maxlen or 0) - len(self._records)
        self._drop(max(0, len(taken) - room))
        self._records.extendleft(reversed(taken[max(0, len(taken) - room) :]))
        self._wake.set()

    def _drop(self, count: int) -> None:
        self.dropped += count
        DECISIONS_DROPPED.inc(count)
