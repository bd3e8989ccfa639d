from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from server.domain import Interaction, Item, ItemId, TenantId
from server.domain.ranking import VECTOR_DIMENSIONS
from server.retrieval.index import ItemIndex
from server.service.catalogue import Catalogue
from server.store.sequences import Action, AppliedSequence, Seen

_NOW = datetime(2026, 6, 1, tzinfo=UTC)


def _catalogue() -> Catalogue:
    """Returns a catalogue without bundle, of the items a, b and c and the content block `banner`."""
    index = ItemIndex(VECTOR_DIMENSIONS)
    items = [Item(item_id=ItemId(name), title=name) for name in "abc"]
    items.append(Item(item_id=ItemId("banner"), title="banner", content_type="hero_banner"))
    index.upsert(items, np.ones((len(items), VECTOR_DIMENSIONS), np.float32))
    return Catalogue.new(TenantId("t"), None, index, trending_origin=_NOW)


def _told(*items: str, new: tuple[int, ...]) -> AppliedSequence:
    return AppliedSequence(tuple(map(ItemId, items)), new, (Action("click", _NOW.timestamp()),) * len(new))


def _after_a(catalogue: Catalogue) -> dict[str, float]:
    shares = catalogue.sparse.fold_in([Interaction(ItemId("a"), "click", _NOW)]).of_all(len(catalogue.sparse.item_ids))
    return {item: share for item, share in zip(catalogue.sparse.item_ids, shares.transitions.tolist(), strict=True) if share}


def test_what_was_read_from_the_database_is_not_counted_again_when_told() -> None:
    """Of transactions that were seen at the load nothing is counted, of all others everything."""
    catalogue = _catalogue()
    catalogue.seen = Seen(10, 20, frozenset({15}))
    for transaction, item in ((9, "b"), (12, "b"), (15, "b"), (20, "c")):
        catalogue.hear([(transaction, _told("a", item, new=(1,)))])
    assert _after_a(catalogue) == {"b": 0.5, "c": 0.5}
    assert set(catalogue.trending.top(5)) == {"b", "c"}


def test_items_that_cannot_be_recommended_are_as_if_they_had_not_been() -> None:
    """An event on an unknown item or a content block gets no row, and those around it follow each other."""
    catalogue = _catalogue()
    catalogue.hear([(1, _told("nowhere", "a", "banner", "nowhere", "b", new=(0, 2, 3, 4)))])
    assert _after_a(catalogue) == {"b": 1.0}
    assert set(catalogue.sparse.item_ids) == {"a", "b"}
