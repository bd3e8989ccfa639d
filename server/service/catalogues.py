"""The catalogues in use, kept in step with the store."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial

import numpy as np

from server.domain import TenantId, item_text
from server.domain.ranking import VECTOR_DIMENSIONS
from server.errors import AisleError, UnavailableError
from server.inference import Inference
from server.priority import step_back
from server.retrieval.bundle import Bundle
from server.retrieval.index import ItemIndex
from server.service.bundle_folder import BundleFolder
from server.service.catalogue import Catalogue
from server.service.chores import Chores
from server.service.replay import TRENDING_WINDOW, replay
from server.service.snapshots import Saved, Snapshots
from server.store import bundles as bundle_store
from server.store import items as item_store
from server.store.database import Database
from server.store.items import StoredItem
from server.store.sequences import AppliedSequence
from server.telemetry import logger

_PAGE = 2000
_ENCODE_BATCH = 64
_ENCODE_S = 60.0
_UNLOAD_AFTER_S = 30.0
_SNAPSHOT_AFTER_S = 60.0
_WAITING = 10_000
"""Messages of applied events kept while a catalogue is built; with more, the oldest are lost to its counts."""
_FEW = 50
"""Messages counted without leaving the event loop, in some 5 ms."""
_log = logger(__name__)


class Catalogues:
    """Loads a tenant's catalogue at its first request, then follows the store's change notices.

    Writes of one tenant take turns under its lock; a reload builds a new catalogue beside the old one and swaps, so no request waits.
    """

    def __init__(self, database: Database, inference: Inference, bundles: BundleFolder, snapshots: Snapshots) -> None:
        self._database = database
        self._encoder = inference.encoder
        self._ranker = inference.ranker
        self._sequences = inference.sequences
        self._bundles = bundles
        self._snapshots = snapshots
        self._loaded: dict[TenantId, Catalogue] = {}
        self._loading: dict[TenantId, asyncio.Task[Catalogue]] = {}
        self._locks: dict[TenantId, asyncio.Lock] = {}
        self._waiting: dict[TenantId, deque[tuple[int, AppliedSequence]]] = {}
        self._chores = Chores()
        self._merger = ThreadPoolExecutor(1, thread_name_prefix="item-to-item", initializer=step_back)

    async def get(self, tenant_id: TenantId) -> Catalogue:
        """Returns the tenant's catalogue, loading it once however many ask.

        Raises:
            UnavailableError: It is not loaded, the database is down, and this machine has no snapshot of it.
        """
        known = self._loaded.get(tenant_id)
        if known is not None:
            return known
        task = self._loading.get(tenant_id)
        if task is None:
            task = asyncio.create_task(self._load(tenant_id), name=f"load {tenant_id}")
            self._loading[tenant_id] = task
            task.add_done_callback(lambda _: self._loading.pop(tenant_id, None))
        return await asyncio.shield(task)  # a caller that gives up must not stop the load for the others

    async def preload(self, tenant_ids: Iterable[TenantId], *, wait_s: float = 0.0) -> None:
        """Begins to load tenants, one after the other, so that their first request does not wait. Returns after `wait_s` at the latest."""
        loaded = asyncio.Event()

        async def load() -> None:
            for tenant_id in tenant_ids:
                await self.get(tenant_id)
            loaded.set()

        self._chores.ask("preload", load)
        with suppress(TimeoutError):
            await asyncio.wait_for(loaded.wait(), wait_s)

    async def refresh(self, tenant_id: TenantId, *, deadline: float) -> None:
        """Takes in changed items; texts are encoded as far as the deadline allows, the rest in the background.

        Never fails: what is written is written, and what cannot be taken in now is tried again until it is.
        """
        try:
            await self._refresh(tenant_id, deadline=deadline)
        except AisleError as error:
            _log.warning("changes wait", tenant=tenant_id, reason=error.message)
            self._ask(tenant_id, "items")

    async def _refresh(self, tenant_id: TenantId, *, deadline: float) -> None:
        async with self._lock(tenant_id):
            catalogue = self._loaded.get(tenant_id)  # looked up under the lock: a reload may have swapped it
            if catalogue is None:
                return
            changed = await self._take_changes(catalogue)
        fresh = [one for one in changed if not one.deleted and one.text_vector_model != self._encoder.version]
        if not fresh:
            return
        try:
            if len(fresh) > _ENCODE_BATCH:
                raise UnavailableError("text_encoder", "many items wait for their text vectors")
            await self._encode(catalogue, fresh, deadline=deadline)
        except AisleError:
            self._chores.ask(("encode", tenant_id), partial(self._encode_missing, tenant_id))

    def on_notice(self, payload: str) -> None:
        """Hears that something changed: `tenant:kind`. The empty payload means that notices were missed."""
        tenant, _, kind = payload.partition(":")
        if not payload:
            for tenant_id in [*self._loaded, *self._loading]:
                self._ask(tenant_id, "items")
                self._ask(tenant_id, "bundles")
        elif tenant in self._loaded or tenant in self._loading:
            self._ask(TenantId(tenant), kind)

    def observe(self, tenant_id: TenantId, told: Iterable[tuple[int, AppliedSequence]]) -> None:
        """Counts new interactions, each user's with the transaction that applied them, also in a catalogue that is being built."""
        catalogue, waiting = self._loaded.get(tenant_id), self._waiting.get(tenant_id)
        if catalogue is not None or waiting is not None:
            heard = list(told)
            if waiting is not None:
                waiting.extend(heard)
            if catalogue is not None:
                catalogue.hear(heard)

    def on_missed(self) -> None:
        """Hears that interactions may have been missed: counts those of every tenant in use anew, from the database."""
        for tenant_id in [*self._loaded, *self._loading]:
            self._ask(tenant_id, "events")

    async def close(self) -> None:
        """Stops what runs in the background."""
        for task in self._loading.values():
            task.cancel()
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        await self._chores.close()
        await asyncio.to_thread(self._merger.shutdown)

    def _ask(self, tenant_id: TenantId, kind: str) -> None:
        if kind == "items":
            self._chores.ask((kind, tenant_id), partial(self._follow, tenant_id))
        elif kind == "bundles":
            self._chores.ask((kind, tenant_id), partial(self._reload, tenant_id))
        elif kind == "events":
            self._chores.ask((kind, tenant_id), partial(self._recount, tenant_id))

    def _lock(self, tenant_id: TenantId) -> asyncio.Lock:
        return self._locks.setdefault(tenant_id, asyncio.Lock())

    async def _follow(self, tenant_id: TenantId) -> None:
        await self.get(tenant_id)  # a notice may come while the first load still reads
        await self._refresh(tenant_id, deadline=time.monotonic() + _ENCODE_S)

    async def _reload(self, tenant_id: TenantId) -> None:
        """Loads the catalogue anew if another bundle became live."""
        catalogue = await self.get(tenant_id)
        async with self._database.tenant(tenant_id) as connection:
            wanted = await bundle_store.live_bundle(connection)
        if (wanted.bundle_id if wanted else "") != catalogue.bundle_id:
            await self._load(tenant_id)

    async def _recount(self, tenant_id: TenantId) -> None:
        """Puts a catalogue with the same items and bundle, but counted anew, in the place of the one in use."""
        await self.get(tenant_id)
        async with self._lock(tenant_id):
            before = self._loaded[tenant_id]
            catalogue = Catalogue.new(tenant_id, before.bundle, before.index, trending_origin=datetime.now(UTC) - TRENDING_WINDOW)
            catalogue.revision = before.revision
            async with self._hearing(catalogue):
                await replay(self._database, catalogue)

    @asynccontextmanager
    async def _hearing(self, catalogue: Catalogue) -> AsyncIterator[None]:
        """Puts the catalogue into use at the end, with what is heard meanwhile. Call under the lock."""
        waiting = self._waiting[catalogue.tenant_id] = deque(maxlen=_WAITING)
        try:
            yield
            while len(waiting) > _FEW:  # off the loop, as nobody else knows the catalogue yet
                await asyncio.to_thread(catalogue.hear, [waiting.popleft() for _ in range(len(waiting))])
            catalogue.hear(waiting)
            catalogue.sparse.merge_on(self._merger)
            self._loaded[catalogue.tenant_id] = catalogue
        finally:
            del self._waiting[catalogue.tenant_id]

    async def _load(self, tenant_id: TenantId) -> Catalogue:
        started = time.perf_counter()
        async with self._lock(tenant_id):
            before = self._loaded.get(tenant_id)
            saved = await asyncio.to_thread(self._snapshots.load, tenant_id) if before is None else None
            bundle = await self._bundle(tenant_id, saved)
            catalogue = self._start(tenant_id, bundle, saved)
            async with self._hearing(catalogue):
                await self._fill(catalogue)
                if bundle is not None:
                    await self._load_models(catalogue, bundle)
        if before is not None and before.bundle_id not in {"", catalogue.bundle_id}:
            self._chores.ask(("unload", before.ranker), partial(self._unload, before))
        seconds = round(time.perf_counter() - started, 2)
        _log.info("catalogue loaded", tenant=tenant_id, items=len(catalogue.index), bundle=catalogue.bundle_id, seconds=seconds)
        self._chores.ask(("encode", tenant_id), partial(self._encode_missing, tenant_id))
        self._chores.ask(("snapshot", tenant_id), partial(self._snapshot, tenant_id))
        return catalogue

    async def _bundle(self, tenant_id: TenantId, saved: Saved | None) -> Bundle | None:
        """Returns the live bundle; while the database is away, the one that the snapshot was made with."""
        try:
            return await self._bundles.live(tenant_id)
        except UnavailableError:
            if saved is None:
                raise
            return await self._bundles.kept(saved.bundle_id) if saved.bundle_id else None

    def _start(self, tenant_id: TenantId, bundle: Bundle | None, saved: Saved | None) -> Catalogue:
        """Returns a catalogue that holds what a snapshot of this bundle holds, or nothing."""
        fits = saved is not None and saved.text_model == self._encoder.version
        fits = fits and saved is not None and saved.bundle_id == (bundle.bundle_id if bundle else "")
        index = saved.index if fits and saved is not None else ItemIndex(VECTOR_DIMENSIONS)
        catalogue = Catalogue.new(tenant_id, bundle, index, trending_origin=datetime.now(UTC) - TRENDING_WINDOW)
        catalogue.revision = saved.revision if fits and saved is not None else 0
        return catalogue

    async def _fill(self, catalogue: Catalogue) -> None:
        """Reads all there is, items and then events; beyond a snapshot only what changed since."""
        from_snapshot = catalogue.revision > 0
        try:
            await self._take_changes(catalogue)
            await replay(self._database, catalogue)
        except UnavailableError as error:
            if not from_snapshot:
                raise
            _log.warning("serving from the snapshot until the database is back", tenant=catalogue.tenant_id, reason=error.message)
            for kind in ("items", "bundles", "events"):
                self._ask(catalogue.tenant_id, kind)

    async def _load_models(self, catalogue: Catalogue, bundle: Bundle) -> None:
        try:
            await self._ranker.load(catalogue.ranker, bundle.ranker_path)
            if bundle.sequence_path is not None:
                await self._sequences.load(catalogue.sequence_encoder, bundle.sequence_path)
        except AisleError as error:
            _log.error("a model does not load, lists come at NO_RANKER", tenant=catalogue.tenant_id, reason=error.message)

    async def _unload(self, before: Catalogue) -> None:
        await asyncio.sleep(_UNLOAD_AFTER_S)  # requests that began with the old bundle end with it
        await self._ranker.unload(before.ranker)
        if before.sequence_encoder:
            await self._sequences.unload(before.sequence_encoder)

    async def _snapshot(self, tenant_id: TenantId) -> None:
        await asyncio.sleep(_SNAPSHOT_AFTER_S)
        catalogue = self._loaded[tenant_id]
        if len(catalogue.index):
            await asyncio.to_thread(self._snapshots.save, catalogue, self._encoder.version)

    async def _take_changes(self, catalogue: Catalogue) -> list[StoredItem]:
        """Returns the changes that the index took in: a page at a time, off the loop where it is much. Call under the lock."""
        taken: list[StoredItem] = []
        while True:
            async with self._database.tenant(catalogue.tenant_id) as connection:
                page = await item_store.changed_items(connection, catalogue.revision, _PAGE)
            if len(page) > _ENCODE_BATCH:
                await asyncio.to_thread(catalogue.take_in, page, self._encoder.version)
            else:
                catalogue.take_in(page, self._encoder.version)
            taken += page
            if len(page) < _PAGE:
                break
        if len(taken) > _ENCODE_BATCH:
            self._chores.ask(("snapshot", catalogue.tenant_id), partial(self._snapshot, catalogue.tenant_id))
        return taken

    async def _encode_missing(self, tenant_id: TenantId) -> None:
        """Encodes items without a text vector, a batch at a time, until none is left."""
        while True:
            async with self._database.tenant(tenant_id) as connection:
                batch = await item_store.items_without_vector(connection, self._encoder.version, _ENCODE_BATCH)
            if not batch:
                return
            await self._encode(self._loaded[tenant_id], batch, deadline=time.monotonic() + _ENCODE_S)

    async def _encode(self, catalogue: Catalogue, stored: list[StoredItem], *, deadline: float) -> None:
        texts = [item_text(one.item) for one in stored]
        embedded = await self._encoder.embed(texts, deadline=deadline)
        pairs = [(one, np.asarray(vector, "<f4").tobytes()) for one, vector in zip(stored, embedded.vectors, strict=True)]
        async with self._database.tenant(catalogue.tenant_id) as connection:
            await item_store.set_text_vectors(connection, self._encoder.version, pairs)
        async with self._lock(catalogue.tenant_id):
            await self._take_changes(self._loaded[catalogue.tenant_id])
