"""A tenant's catalogue in memory: index, bundle and sources, kept in step with the store.

Shapes: B items of a batch, N rows of the index.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.domain import BundleId, Event, Item, ItemId, Rung, TenantId, item_text
from server.domain.ranking import VECTOR_DIMENSIONS, VIEW_DIMENSIONS
from server.errors import AisleError
from server.inference import Ranker, TextEncoder
from server.retrieval.bundle import Bundle
from server.retrieval.fusion import UNTRAINED, FusionWeights
from server.retrieval.index import ItemIndex
from server.retrieval.sources import Fresh, SparseSource, Trending
from server.retrieval.vectors import VectorSpace, action_weight
from server.service.bundle_folder import BundleFolder
from server.store import bundles as bundle_store
from server.store import events as event_store
from server.store import items as item_store
from server.store.database import Database
from server.store.items import StoredItem
from server.telemetry import INDEX_ITEMS, logger

FloatArray = NDArray[np.float32]

TRENDING_HALF_LIFE_S = 7 * 86400.0
_TRENDING_WINDOW = timedelta(days=60)
_PAGE = 2000
_ENCODE_BATCH = 64
_log = logger(__name__)


@dataclass(slots=True)
class Catalogue:
    """What one tenant's recommendations are computed from. Searches need no lock; only `Catalogues` writes."""

    tenant_id: TenantId
    index: ItemIndex
    space: VectorSpace
    sparse: SparseSource
    weights: FusionWeights
    trending: Trending
    fresh: Fresh
    bundle: Bundle | None = None
    popularity: Mapping[ItemId, float] = field(default_factory=dict)
    """Share of the most popular item's users, in (0, 1]."""
    most_popular: Sequence[ItemId] = ()
    """All items of `popularity`, the most popular first, ties by id."""
    content: dict[str, dict[ItemId, Item]] = field(default_factory=dict)
    """Content type -> its blocks."""
    revision: int = 0
    """Of the newest item change that the index holds."""

    @property
    def bundle_id(self) -> BundleId:
        """The bundle that answers; empty without one."""
        return self.bundle.bundle_id if self.bundle else BundleId("")

    @property
    def ranker(self) -> str:
        """The name of the ranker's model; empty without a bundle."""
        return Ranker.model_name(self.bundle.bundle_id) if self.bundle else ""

    @property
    def best_rung(self) -> Rung:
        """The rung that this tenant's lists have when all is well."""
        return Rung.FULL if self.bundle else Rung.NO_RANKER

    @property
    def knows_popular(self) -> bool:
        """Whether anything is known of what people choose."""
        return bool(self.popularity) or bool(self.trending.top(1))

    def take_in(self, stored: Sequence[StoredItem], text_model: str) -> None:
        """Brings index and sources up to these changes."""
        gone = [one.item.item_id for one in stored if one.deleted]
        kept = [one for one in stored if not one.deleted]
        for one in stored:
            for blocks in self.content.values():
                blocks.pop(one.item.item_id, None)
            if one.item.content_type and not one.deleted:
                self.content.setdefault(one.item.content_type, {})[one.item.item_id] = one.item
        if gone:
            self.index.delete(gone)
            self.fresh.remove(gone)
        if kept:
            items = [one.item for one in kept]
            self.index.upsert(items, self.space.item_vectors(items, _text_vectors(kept, text_model)))
            now = datetime.now(UTC)
            self.fresh.add({item.item_id: item.create_time or now for item in items if not item.content_type})
        if stored:
            self.revision = max(self.revision, stored[-1].revision)
        INDEX_ITEMS.labels(self.tenant_id).set(len(self.index))

    def observe(self, events: Sequence[Event]) -> None:
        """Counts new events for what trends."""
        for event in events:
            if event.item_id is not None:
                self.trending.observe(event.item_id, event.occur_time, action_weight(event.event_type))


def _by_popularity(popularity: Mapping[ItemId, float]) -> tuple[ItemId, ...]:
    return tuple(sorted(popularity, key=lambda item_id: (-popularity[item_id], item_id)))


def _text_vectors(stored: Sequence[StoredItem], text_model: str) -> FloatArray:
    """Returns the items' text vectors, (B, 384); zero where there is none of this model yet."""
    vectors = np.zeros((len(stored), VIEW_DIMENSIONS), np.float32)
    for row, one in enumerate(stored):
        if one.text_vector is not None and one.text_vector_model == text_model:
            vectors[row] = np.frombuffer(one.text_vector, "<f4")
    return vectors


class Catalogues:
    """The catalogues in use. Each is loaded at its first request, then follows the store's change notices."""

    def __init__(self, database: Database, encoder: TextEncoder, ranker: Ranker, bundles: BundleFolder) -> None:
        self._database = database
        self._encoder = encoder
        self._ranker = ranker
        self._bundles = bundles
        self._loaded: dict[TenantId, Catalogue] = {}
        self._loading: dict[TenantId, asyncio.Task[Catalogue]] = {}
        self._locks: dict[TenantId, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def get(self, tenant_id: TenantId) -> Catalogue:
        """Returns the tenant's catalogue, loading it once however many ask.

        Raises:
            UnavailableError: It is not loaded and the database is down.
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

    async def refresh(self, tenant_id: TenantId, *, deadline: float) -> None:
        """Takes in changed items; texts are encoded as far as the deadline allows, the rest in the background.

        Never fails: what is written is written, and what cannot be taken in now comes with the next notice.
        """
        catalogue = self._loaded.get(tenant_id)
        if catalogue is None:
            return
        try:
            async with self._lock(tenant_id):
                changed = await self._take_changes(catalogue)
        except AisleError as error:
            _log.warning("changes wait", tenant=tenant_id, reason=error.message)
            return
        fresh = [one for one in changed if not one.deleted and one.text_vector_model != self._encoder.version]
        if not fresh:
            return
        if len(fresh) > _ENCODE_BATCH:
            self._background(self._encode_missing(catalogue))
            return
        try:
            await self._encode(catalogue, fresh, deadline=deadline)
        except AisleError as error:
            _log.warning("text vectors wait", tenant=tenant_id, items=len(fresh), reason=error.message)
            self._background(self._encode_missing(catalogue))

    def on_notice(self, payload: str) -> None:
        """Hears that something changed: `tenant:kind`. Empty: notices were missed, so everything is looked at."""
        if not payload:
            for loaded in self._loaded:
                self._background(self._catch_up(loaded))
            return
        tenant, _, kind = payload.partition(":")
        tenant_id = TenantId(tenant)
        if tenant_id not in self._loaded:
            return
        if kind == "items":
            self._background(self.refresh(tenant_id, deadline=time.monotonic() + 30))
        elif kind == "bundles":
            self._background(self._reload(tenant_id))

    def observe(self, tenant_id: TenantId, events: Sequence[Event]) -> None:
        """Hears of events that were applied."""
        catalogue = self._loaded.get(tenant_id)
        if catalogue is not None:
            catalogue.observe(events)

    async def close(self) -> None:
        """Stops what runs in the background."""
        for task in self._tasks | set(self._loading.values()):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._loading.values(), return_exceptions=True)

    def _lock(self, tenant_id: TenantId) -> asyncio.Lock:
        return self._locks.setdefault(tenant_id, asyncio.Lock())

    def _background(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(_logged(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _catch_up(self, tenant_id: TenantId) -> None:
        await self.refresh(tenant_id, deadline=time.monotonic() + 30)
        await self._reload(tenant_id)
        await self._encode_missing(self._loaded[tenant_id])

    async def _reload(self, tenant_id: TenantId) -> None:
        """Builds the catalogue anew beside the old one, then swaps: no request waits."""
        live = self._loaded[tenant_id].bundle_id
        async with self._database.tenant(tenant_id) as connection:
            wanted = await bundle_store.live_bundle(connection)
        if (wanted.bundle_id if wanted else "") != live:
            await self._load(tenant_id)

    async def _load(self, tenant_id: TenantId) -> Catalogue:
        started = time.perf_counter()
        async with self._lock(tenant_id):
            bundle = await self._bundles.live(tenant_id)
            catalogue = Catalogue(
                tenant_id=tenant_id,
                index=ItemIndex(VECTOR_DIMENSIONS),
                space=bundle.space if bundle else VectorSpace.untrained(),
                sparse=bundle.sparse_source() if bundle else SparseSource.empty(),
                weights=bundle.weights if bundle else UNTRAINED,
                trending=Trending(half_life_s=TRENDING_HALF_LIFE_S, origin=datetime.now(UTC) - _TRENDING_WINDOW),
                fresh=Fresh(),
                bundle=bundle,
                popularity=bundle.popularity if bundle else {},
                most_popular=_by_popularity(bundle.popularity) if bundle else (),
            )
            await self._take_changes(catalogue)
            await self._take_recent_events(catalogue)
            if bundle:
                await self._ranker.load(catalogue.ranker, bundle.ranker_path)
            before = self._loaded.get(tenant_id)
            self._loaded[tenant_id] = catalogue
        if before is not None and before.ranker and before.ranker != catalogue.ranker:
            await self._ranker.unload(before.ranker)
        _log.info(
            "catalogue loaded",
            tenant=tenant_id,
            items=len(catalogue.index),
            bundle=catalogue.bundle_id,
            seconds=round(time.perf_counter() - started, 2),
        )
        self._background(self._encode_missing(catalogue))
        return catalogue

    async def _take_changes(self, catalogue: Catalogue) -> list[StoredItem]:
        """Returns the changes that the index took in: a page at a time, off the loop where it is much."""
        taken: list[StoredItem] = []
        while True:
            async with self._database.tenant(catalogue.tenant_id) as connection:
                page = await item_store.changed_items(connection, catalogue.revision, _PAGE)
            if len(page) > _ENCODE_BATCH:
                await asyncio.to_thread(catalogue.take_in, page, self._encoder.version)
            elif page:
                catalogue.take_in(page, self._encoder.version)
            taken += page
            if len(page) < _PAGE:
                return taken

    async def _take_recent_events(self, catalogue: Catalogue) -> None:
        since = datetime.now(UTC) - _TRENDING_WINDOW
        async with self._database.tenant(catalogue.tenant_id) as connection:
            async for chunk in event_store.iter_interactions(connection, catalogue.tenant_id, start_time=since):
                for one in chunk:
                    moment = datetime.fromtimestamp(one.occur_time_s, UTC)
                    catalogue.trending.observe(one.item_id, moment, action_weight(one.event_type))

    async def _encode_missing(self, catalogue: Catalogue) -> None:
        """Encodes items without a text vector, a batch at a time, until none is left."""
        while self._loaded.get(catalogue.tenant_id) is catalogue:
            async with self._database.tenant(catalogue.tenant_id) as connection:
                batch = await item_store.items_without_vector(connection, self._encoder.version, _ENCODE_BATCH)
            if not batch:
                return
            await self._encode(catalogue, batch, deadline=time.monotonic() + 60)

    async def _encode(self, catalogue: Catalogue, stored: Sequence[StoredItem], *, deadline: float) -> None:
        texts = [item_text(one.item) for one in stored]
        embedded = await self._encoder.embed(texts, deadline=deadline)
        pairs = [(one, vector.astype("<f4").tobytes()) for one, vector in zip(stored, embedded.vectors, strict=True)]
        async with self._database.tenant(catalogue.tenant_id) as connection:
            await item_store.set_text_vectors(connection, self._encoder.version, pairs)
        async with self._lock(catalogue.tenant_id):
            await self._take_changes(catalogue)


async def _logged(work: Coroutine[Any, Any, object]) -> None:
    """Runs background work; what fails is said, and tried again at the next notice."""
    try:
        await work
    except AisleError as error:
        _log.warning("catalogue work failed", reason=error.message)
    except Exception:  # noqa: BLE001  # background work must not take the process down
        _log.exception("catalogue work failed")
