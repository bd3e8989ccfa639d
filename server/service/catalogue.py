"""A tenant's catalogue in memory: index, bundle and sources.

Shapes: B items of a batch, N rows of the index.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from server.domain import BundleId, Item, ItemId, Rung, TenantId
from server.domain.ranking import VIEW_DIMENSIONS
from server.inference import Ranker, SequenceEncoder
from server.retrieval.bundle import Bundle
from server.retrieval.fusion import UNTRAINED, FusionWeights
from server.retrieval.index import ItemIndex
from server.retrieval.sources import SparseSource, Trending
from server.retrieval.vectors import VectorSpace, action_weight
from server.service.columns import Columns
from server.store.items import StoredItem
from server.store.sequences import AppliedSequence, Seen, UserSequence
from server.telemetry import INDEX_ITEMS

FloatArray = NDArray[np.float32]

TRENDING_HALF_LIFE_S = 7 * 86400.0


@dataclass(slots=True)
class Catalogue:
    """What one tenant's recommendations are computed from. Searches need no lock; only `Catalogues` writes, one write at a time."""

    tenant_id: TenantId
    index: ItemIndex
    space: VectorSpace
    sparse: SparseSource
    weights: FusionWeights
    trending: Trending
    columns: Columns
    bundle: Bundle | None = None
    content: Mapping[str, Mapping[ItemId, Item]] = field(default_factory=dict)
    """Content type -> its blocks. Replaced whole, never changed in place."""
    revision: int = 0
    """Of the newest item change that the index holds."""
    seen: Seen | None = None
    """Transactions whose events were counted from the database; None while none were."""

    @classmethod
    def new(cls, tenant_id: TenantId, bundle: Bundle | None, index: ItemIndex, *, trending_origin: datetime) -> Catalogue:
        """Returns a catalogue that starts from a bundle, or from none, and from what an index holds."""
        sparse = bundle.sparse_source() if bundle else SparseSource.empty()
        trending = Trending(half_life_s=TRENDING_HALF_LIFE_S, origin=trending_origin)
        catalogue = cls(
            tenant_id=tenant_id,
            index=index,
            space=bundle.space if bundle else VectorSpace.untrained(),
            sparse=sparse,
            weights=bundle.weights if bundle else UNTRAINED,
            trending=trending,
            columns=Columns(bundle.popularity if bundle else {}, sparse, trending),
            bundle=bundle,
        )
        catalogue._place_content([item for item in index if item.content_type], [])
        return catalogue

    @property
    def bundle_id(self) -> BundleId:
        """The bundle that answers; empty without one."""
        return self.bundle.bundle_id if self.bundle else BundleId("")

    @property
    def ranker(self) -> str:
        """The name of the ranker's model; empty without a bundle."""
        return Ranker.model_name(self.bundle.bundle_id) if self.bundle else ""

    @property
    def sequence_encoder(self) -> str:
        """The name of the sequence encoder's model; empty where no sequential view was trained."""
        return SequenceEncoder.model_name(self.bundle.bundle_id) if self.bundle and self.bundle.sequence_path else ""

    @property
    def best_rung(self) -> Rung:
        """The rung that this tenant's lists have when all is well."""
        return Rung.FULL if self.bundle else Rung.NO_RANKER

    @property
    def knows_popular(self) -> bool:
        """Whether anything is known of what people choose."""
        return bool(self.bundle and self.bundle.popularity) or bool(self.trending.top(1))

    def take_in(self, stored: Sequence[StoredItem], text_model: str) -> None:
        """Brings the index up to these changes, which are in the order of their revisions. May run on any thread, one at a time."""
        if not stored:
            return
        gone = [one.item.item_id for one in stored if one.deleted]
        kept = [one for one in stored if not one.deleted]
        items = [one.item for one in kept]
        if gone:
            self.index.delete(gone)
        if kept:
            self.index.upsert(items, self.space.item_vectors(items, _text_vectors(kept, text_model)))
        self._place_content(items, gone)
        self.revision = stored[-1].revision
        INDEX_ITEMS.labels(self.tenant_id).set(len(self.index))

    def hear(self, told: Iterable[tuple[int, AppliedSequence]]) -> None:
        """Counts what transactions applied, for trends and item to item, unless it was counted from the database already."""
        fresh = [one for transaction, one in told if self.seen is None or transaction not in self.seen]
        for one in fresh:
            for place, action in zip(one.new, one.actions, strict=True):
                moment = datetime.fromtimestamp(action.occur_time_s, UTC)
                self.trending.observe(one.items[place], moment, action_weight(action.event_type))
        self.count(fresh)

    def count(self, sequences: Sequence[UserSequence]) -> None:
        """Counts new interactions item to item. Those with what is no item of the catalogue are as if they had not been, as in training."""
        view = self.index.view()
        content = {item_id for blocks in self.content.values() for item_id in blocks}
        for one in sequences:
            here = view.rows_of(one.items) >= 0
            if here.all() and content.isdisjoint(one.items):  # nearly always, and all that is done 200 times an event is done in C
                self.sparse.observe(one.items, one.new)
                continue
            new = set(one.new)
            places = [place for place, known in enumerate(here.tolist()) if known and one.items[place] not in content]
            self.sparse.observe([one.items[place] for place in places], [row for row, place in enumerate(places) if place in new])

    def _place_content(self, items: Sequence[Item], gone: Sequence[ItemId]) -> None:
        touched = {item.item_id for item in items} | set(gone)
        blocks = {
            kind: kept
            for kind, known in self.content.items()
            if (kept := {item_id: item for item_id, item in known.items() if item_id not in touched})
        }
        for item in items:
            if item.content_type:
                blocks.setdefault(item.content_type, {})[item.item_id] = item
        self.content = blocks


def _text_vectors(stored: Sequence[StoredItem], text_model: str) -> FloatArray:
    """Returns the items' text vectors, (B, 384); zero where there is none of this model yet."""
    vectors = np.zeros((len(stored), VIEW_DIMENSIONS), np.float32)
    for row, one in enumerate(stored):
        if one.text_vector is not None and one.text_vector_model == text_model:
            vectors[row] = np.frombuffer(one.text_vector, "<f4")
    return vectors
