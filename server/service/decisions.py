"""Where decisions go, and how they are read back."""

from __future__ import annotations

import secrets
import time
from typing import Protocol

from server.domain import Decision, DecisionId, TenantId
from server.store import decisions as store
from server.store.database import Database


class DecisionSink(Protocol):
    """Where decisions are recorded, off the reply's path."""

    def record(self, tenant_id: TenantId, decision: Decision) -> None:
        """Takes the record; never blocks, never raises."""
        ...


def new_decision_id() -> DecisionId:
    """Returns 32 hexadecimal digits that sort by time: 48 bits of milliseconds, 80 random ones."""
    return DecisionId(f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}")


class Decisions:
    """The use cases around decision records."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, tenant_id: TenantId, decision_id: DecisionId) -> Decision:
        """Returns a decision.

        Raises:
            NotFoundError: It is unknown, or not yet written.
        """
        async with self._database.tenant(tenant_id) as connection:
            return await store.get_decision(connection, decision_id)
