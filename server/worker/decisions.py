"""Decision records from the stream into Postgres."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis.asyncio

from server.domain import Decision, TenantId
from server.store import Database
from server.store.decisions import insert_decisions
from server.stream.codec import decode_decision
from server.stream.consumer import StreamConsumer
from server.stream.decision_log import DECISIONS
from server.worker.drain import StreamWorker, Tenants


class DecisionHandler:
    """Writes decision records; one that comes again is left as it is."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def decode(self, value: Any) -> Decision:
        """Returns the decision of a JSON value, or raises ValueError."""
        return decode_decision(value)

    async def apply(self, tenant_id: TenantId, records: Sequence[Decision]) -> None:
        """Commits the records in one transaction."""
        async with self._database.tenant(tenant_id) as connection:
            await insert_decisions(connection, records)


def decision_worker(client: redis.asyncio.Redis, database: Database, tenants: Tenants, *, name: str) -> StreamWorker[Decision]:
    """Returns the worker that drains the tenants' decision streams into the database. Arguments as for `event_worker`."""
    return StreamWorker(StreamConsumer(client, stream=DECISIONS, name=name), DecisionHandler(database), tenants)
