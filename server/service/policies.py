"""How each tenant's lists are shaped: as the process's settings say, or as the tenant has set."""

from __future__ import annotations

from collections.abc import Mapping

from server.domain import TenantId
from server.domain.shaping import ShapingPolicy
from server.service.chores import Chores
from server.store.database import Database
from server.store.shaping import all_shaping


class Policies:
    """Keeps the policies of all tenants that have one of their own in memory, so that asking costs a look-up.

    A change is read when the database announces it. While the database is away the last known ones count.
    """

    def __init__(self, database: Database, default: ShapingPolicy) -> None:
        self._database = database
        self._default = default
        self._own: Mapping[TenantId, ShapingPolicy] = {}
        self._chores = Chores()

    def of(self, tenant_id: TenantId) -> ShapingPolicy:
        """Returns the tenant's policy. Never changes in place: who keeps it for a request keeps one state of it."""
        return self._own.get(tenant_id, self._default)

    async def load(self) -> None:
        """Reads all policies.

        Raises:
            UnavailableError: The database is down.
        """
        async with self._database.system() as connection:
            found = await all_shaping(connection)
        self._own = {tenant_id: values.over(self._default) for tenant_id, values in found.items()}

    def on_notice(self, payload: str) -> None:
        """Hears of changes: `tenant:shaping`, or nothing: notices may have been missed."""
        if not payload or payload.endswith(":shaping"):
            self._chores.ask("shaping", self.load)

    async def close(self) -> None:
        """Stops what runs in the background."""
        await self._chores.close()
