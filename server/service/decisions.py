"""Reads back what was decided."""

from __future__ import annotations

from server.domain import Decision, DecisionId, TenantId
from server.store import decisions as store
from server.store.database import Database


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
