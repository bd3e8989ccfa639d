"""Bundles on this machine, copied from the store when they are first needed."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from pathlib import Path

from server.domain import BundleId, TenantId
from server.errors import CorruptDataError
from server.retrieval.bundle import Bundle, load_bundle
from server.store import bundles as store
from server.store.database import Database
from server.telemetry import logger

_log = logger(__name__)


class BundleFolder:
    """A folder with one directory a bundle. Bundles are immutable, so processes share it."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder

    async def live(self, tenant_id: TenantId) -> Bundle | None:
        """Returns the tenant's live bundle, or None if it has none, or none that is whole.

        A damaged copy is set aside and fetched again once. If the store's is damaged too, the log says so and the tenant is served
        without a bundle.
        """
        async with self._database.tenant(tenant_id) as connection:
            live = await store.live_bundle(connection)
        if live is None:
            return None
        directory = self._folder / live.bundle_id
        for attempt in (1, 2):
            try:
                if not await asyncio.to_thread(directory.exists):
                    await self._fetch(tenant_id, live.bundle_id, directory)
                return await asyncio.to_thread(load_bundle, directory)
            except CorruptDataError as error:
                _log.error("bundle is damaged", tenant=tenant_id, bundle=live.bundle_id, reason=error.message, attempt=attempt)
                await asyncio.to_thread(_set_aside, directory)
        return None

    async def kept(self, bundle_id: BundleId) -> Bundle | None:
        """Returns a bundle that this machine has, or None if it has none of that id that is whole. Asks nobody."""
        try:
            return await asyncio.to_thread(load_bundle, self._folder / bundle_id)
        except CorruptDataError:
            return None

    async def _fetch(self, tenant_id: TenantId, bundle_id: BundleId, directory: Path) -> None:
        """Copies a bundle from the store. Its directory appears whole or not at all, however many fetch it."""
        part = await asyncio.to_thread(_make_part, directory)
        try:
            async with self._database.tenant(tenant_id) as connection:
                await store.fetch_bundle(connection, bundle_id, part)
            await asyncio.to_thread(_publish, part, directory)
        finally:
            await asyncio.to_thread(shutil.rmtree, part, ignore_errors=True)


def _make_part(directory: Path) -> Path:
    directory.parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))


def _publish(part: Path, directory: Path) -> None:
    with contextlib.suppress(OSError):  # another process was faster
        part.rename(directory)


def _set_aside(directory: Path) -> None:
    if directory.exists():
        directory.rename(directory.with_name(f"{directory.name}.damaged-{time.time_ns()}"))
