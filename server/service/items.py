"""The catalogue's use cases. What is written is searchable when the call returns, in this process; elsewhere within a second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from server.domain import Item, ItemId, TenantId
from server.service.deadlines import left_s
from server.store import items as store
from server.store.database import Database
from server.store.items import ItemPage, StoredItem, UpsertCounts

__all__ = ["ItemPage", "Items", "StoredItem"]


class CatalogueRefresh(Protocol):
    """What keeps the retrieval index in step with the store."""

    async def refresh(self, tenant_id: TenantId, *, deadline: float) -> None:
        """Takes in the tenant's changed items, as many as the deadline allows; the rest follow in the background."""
        ...


class Items:
    """Reads and writes items, and refreshes the index after each write."""

    def __init__(self, database: Database, catalogues: CatalogueRefresh) -> None:
        self._database = database
        self._catalogues = catalogues

    async def get(self, tenant_id: TenantId, item_id: ItemId) -> StoredItem:
        """Returns an item.

        Raises:
            NotFoundError: It does not exist.
        """
        async with self._database.tenant(tenant_id) as connection:
            return await store.get_item(connection, item_id)

    async def list_page(self, tenant_id: TenantId, *, content_type: str, page_size: int, page_token: str) -> ItemPage:
        """Returns a page of the items of one content type, in the order of their ids."""
        async with self._database.tenant(tenant_id) as connection:
            return await store.list_items(connection, content_type=content_type, page_size=page_size, page_token=page_token)

    async def create(self, tenant_id: TenantId, item: Item, *, deadline: float) -> StoredItem:
        """Creates an item.

        Raises:
            AlreadyExistsError: The id is taken.
        """
        async with self._database.tenant(tenant_id, timeout_s=left_s(deadline)) as connection:
            stored = await store.create_item(connection, item)
        await self._catalogues.refresh(tenant_id, deadline=deadline)
        return stored

    async def update(
        self, tenant_id: TenantId, item_id: ItemId, change: Callable[[StoredItem], Item], *, etag: str, deadline: float
    ) -> StoredItem:
        """Changes an item; writers that meet are put in order, or refused if they sent an etag.

        Raises:
            NotFoundError: It does not exist.
            AbortedError: The etag is out of date, or another writer was faster.
        """
        async with self._database.tenant(tenant_id, timeout_s=left_s(deadline)) as connection:
            current = await store.get_item(connection, item_id)
            stored = await store.update_item(connection, change(current), etag=etag or current.etag)
        await self._catalogues.refresh(tenant_id, deadline=deadline)
        return stored

    async def delete(self, tenant_id: TenantId, item_id: ItemId, *, etag: str, deadline: float) -> None:
        """Deletes an item.

        Raises:
            NotFoundError: It does not exist.
            AbortedError: The etag is out of date.
        """
        async with self._database.tenant(tenant_id, timeout_s=left_s(deadline)) as connection:
            await store.delete_item(connection, item_id, etag=etag)
        await self._catalogues.refresh(tenant_id, deadline=deadline)

    async def upsert_many(self, tenant_id: TenantId, items: Sequence[Item], *, deadline: float) -> UpsertCounts:
        """Creates or replaces items, all or none; of several with one id the last counts."""
        async with self._database.tenant(tenant_id, timeout_s=left_s(deadline)) as connection:
            counts = await store.upsert_items(connection, items)
        await self._catalogues.refresh(tenant_id, deadline=deadline)
        return counts
