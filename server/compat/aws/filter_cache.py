"""A tenant's filters, parsed; forgotten when they change."""

from __future__ import annotations

from cachetools import LRUCache

from server.compat.aws.filters import FilterExpression, parse_filter
from server.domain import TenantId
from server.errors import NotFoundError
from server.service.deadlines import left_s
from server.store.aws_filters import get_filter
from server.store.database import Database


class Filters:
    """Reads a filter once, until the database announces that the tenant's filters changed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: LRUCache[tuple[TenantId, str], FilterExpression] = LRUCache(4096)
        self._changes = 0

    async def get(self, tenant_id: TenantId, name: str, *, deadline: float) -> FilterExpression:
        """Returns a filter.

        Raises:
            NotFoundError: The tenant has none of that name.
        """
        known = self._known.get((tenant_id, name))
        if known is not None:
            return known
        changes = self._changes
        async with self._database.tenant(tenant_id, timeout_s=left_s(deadline)) as connection:
            text = await get_filter(connection, name)
        if text is None:
            raise NotFoundError(
                f"filters/{name[:100]}", f"filter {name[:100]!r} does not exist; bring it along with `aisle import aws-filters`"
            )
        parsed = parse_filter(text)
        if changes == self._changes:  # else what was read may be what was replaced
            self._known[tenant_id, name] = parsed
        return parsed

    def on_notice(self, payload: str) -> None:
        """Hears of changes: `tenant:aws_filters`, or nothing: notices may have been missed."""
        if not payload or payload.endswith(":aws_filters"):
            self._changes += 1
            self._known.clear()
