"""Catalogues on disk, so that a restart reads arrays instead of rows, and serves even while the database is away."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from server.domain import BundleId, TenantId
from server.errors import AisleError, CorruptDataError, NotFoundError
from server.retrieval import snapshot
from server.retrieval.index import ItemIndex
from server.service.catalogue import Catalogue
from server.telemetry import logger

_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Saved:
    """A catalogue's index as it was saved, and what its vectors were made with."""

    index: ItemIndex
    revision: int
    bundle_id: BundleId
    text_model: str


class Snapshots:
    """A folder with one snapshot a tenant."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, catalogue: Catalogue, text_model: str) -> None:
        """Writes the catalogue's index. A full disk is said in the log and harms nothing. Blocks."""
        started = time.perf_counter()
        # The revision is read first: changes that come between are in the snapshot and taken in again, which does no harm.
        metadata = {"revision": str(catalogue.revision), "bundle": catalogue.bundle_id, "text_model": text_model}
        try:
            snapshot.save(catalogue.index.view(), self._folder / catalogue.tenant_id, metadata=metadata)
        except AisleError as error:
            _log.warning("snapshot not written", tenant=catalogue.tenant_id, reason=error.message)
        else:
            seconds = round(time.perf_counter() - started, 2)
            _log.info("snapshot written", tenant=catalogue.tenant_id, items=len(catalogue.index), seconds=seconds)

    def load(self, tenant_id: TenantId) -> Saved | None:
        """Returns the tenant's snapshot, or None if there is none that is whole. Blocks."""
        try:
            index, metadata = snapshot.load(self._folder / tenant_id)
            return Saved(index, int(metadata["revision"]), BundleId(metadata["bundle"]), metadata["text_model"])
        except NotFoundError:
            return None
        except (CorruptDataError, KeyError, ValueError) as error:
            _log.warning("snapshot is damaged, the catalogue is read from the database", tenant=tenant_id, reason=str(error))
            return None
